"""What differs between the systems we support: one table, so that no branch elsewhere asks for a system's name."""

from dataclasses import dataclass

from gpurack.state.model import Os


@dataclass(frozen=True)
class Platform:
    """docker_repository: the folder under Docker's base URL. distro_packages: the distribution's own Docker with
    Compose v2 (empty: it has no Compose v2)."""

    docker_repository: str
    distro_packages: tuple[str, ...]


DEBIAN = ("docker.io", "docker-cli", "docker-compose")
UBUNTU = ("docker.io", "docker-compose-v2")

# Debian 12 has docker.io 20.10 and only Compose v1; Ubuntu 22.04 and 24.04 got docker-compose-v2 by updates.
PLATFORMS = {
    ("debian", "12"): Platform("debian", ()),
    ("debian", "13"): Platform("debian", DEBIAN),
    ("ubuntu", "22.04"): Platform("ubuntu", UBUNTU),
    ("ubuntu", "24.04"): Platform("ubuntu", UBUNTU),
}

CE_PACKAGES = ("docker-ce", "docker-ce-cli", "containerd.io", "docker-buildx-plugin", "docker-compose-plugin")
TOOLKIT_PACKAGES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
PREREQUISITES = ("ca-certificates", "curl", "python3")


def platform_of(os: Os) -> Platform | None:
    """The table's row for a host, None when we do not support it."""
    return PLATFORMS.get((os.id, os.version))


def unsupported(os: Os) -> str:
    """The sentence for a host without a row."""
    supported = ", ".join(f"{name.capitalize()} {version}" for name, version in PLATFORMS)
    return f"{os.name} is not supported; supported are {supported}."
