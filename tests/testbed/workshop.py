"""Debian's own tools (mmdebstrap, apt-ftparchive, gpg, dpkg-deb), which make the testbed's images and repositories.

They run on this machine where it is Debian or Ubuntu and we are root; elsewhere in a container of Debian's image
from a registry, which then must be reachable.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.testbed import engine as outer
from tests.testbed.paths import PACKAGE, cache_home
from tests.testbed.shell import TestbedError, progress, run, text

TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "apt-ftparchive": "apt-utils",
    "gpg": "gnupg",
    "ar": "binutils",
    "gcc": "gcc",
    "zstd": "zstd",
}
"""Program → Debian package."""
RPM = {"rpmbuild": "rpm", "createrepo_c": "createrepo-c"}
"""The same for programs that make rpm repositories, installed on first use (`bring_rpm`)."""
DOCKER = {"dockerd": "docker.io", "containerd": "containerd", "iptables": "iptables"}
"""The same for a private Docker. iptables is for the name server inside a container's network."""
IMAGE = os.environ.get("GPURACK_TESTBED_IMAGE", "debian:trixie")
"""Where Debian's tools come from on a machine that is not Debian."""
_MAKING = threading.Lock()
POLICY = Path("/usr/sbin/policy-rc.d")
INOTIFY, ENOUGH_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances"), 1024


def is_debian() -> bool:
    """Is this machine Debian or a relative, where apt can install what is missing?"""
    return shutil.which("apt-get") is not None and shutil.which("dpkg-deb") is not None


def is_here() -> bool:
    """Do Debian's tools run on this machine itself?"""
    return is_debian() and os.geteuid() == 0


def prepare() -> outer.Engine:
    """Return a Docker that answers, after installing what this machine lacks for it and for making images."""
    found = outer.find()
    local = is_here()
    if found is None and not local:
        missing = "root" if is_debian() else "a running Docker (only on Debian and Ubuntu can it bring its own)"
        raise TestbedError(f"The testbed needs {missing}.")
    if local:
        wanted = dict(TOOLS)
        if found is None:
            wanted |= DOCKER
            if shutil.which("docker") is None:
                wanted["docker"] = "docker.io"
        install({package for program, package in wanted.items() if shutil.which(program) is None})
        raise_inotify()
    return found or outer.ensure()


def raise_inotify() -> None:
    """Hosts share the machine's kernel, and root's inotify instances with it: Linux' 128 are enough for a dozen. The
    next host's dockerd then panics over CDI specs. It stays until a reboot; who may not raise it goes on."""
    with suppress(OSError):
        if int(INOTIFY.read_text()) < ENOUGH_INOTIFY:
            INOTIFY.write_text(f"{ENOUGH_INOTIFY}\n")


def bring_rpm() -> None:
    """Install the programs that make rpm repositories, if they are missing."""
    if is_here():
        install({package for program, package in RPM.items() if shutil.which(program) is None})


def install(packages: set[str]) -> None:
    """Install the distribution's packages on this machine; its apt must be ours to use (`is_here`)."""
    if not packages:
        return
    progress(f"installing {', '.join(sorted(packages))}")
    # The distribution's own dockerd must not start, only the private one.
    silenced = "docker.io" in packages and not POLICY.exists()
    had_systemd = Path("/run/systemd/system").is_dir()
    install = ["apt-get", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", "install"]
    if "docker.io" in packages and b"docker-cli" in run(["apt-cache", "pkgnames", "docker-cli"]).stdout:
        packages = packages | {"docker-cli"}  # from Debian 13 on the client is a package of its own
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        if silenced:
            POLICY.write_text("#!/bin/sh\n# written by gpurack's testbed while it installs docker.io\nexit 101\n")
            POLICY.chmod(0o755)
        command = [*install, *sorted(packages)]
        if run(command, env=environment, check=False, timeout=600).returncode != 0:
            run(["apt-get", "update"], env=environment, timeout=300, what="apt-get update")
            run(command, env=environment, timeout=600, what=f"Installing {', '.join(sorted(packages))}")
        if silenced and had_systemd:
            units = ["docker.service", "docker.socket", "containerd.service"]
            run(["systemctl", "disable", *units], check=False)
    finally:
        if silenced:
            POLICY.unlink(missing_ok=True)


def work(
    engine: outer.Engine,
    script: str,
    *,
    env: Mapping[str, str] | None = None,
    what: str,
    timeout: float = 900,
) -> str:
    """Run a shell script with Debian's tools and return its standard output.

    It may rely on seeing the cache and this package under their own paths, and nothing else of this machine.
    """
    if is_here():
        return text(run(["bash", "-euc", script], env=env, what=what, timeout=timeout).stdout)
    cache = cache_home()
    options = ["--rm", "-v", f"{cache}:{cache}", "-v", f"{PACKAGE}:{PACKAGE}:ro", "--cap-add", "SYS_ADMIN"]
    options += ["--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"]
    for name, value in (env or {}).items():
        options += ["-e", f"{name}={value}"]
    done = engine.docker("run", *options, _image(engine), "bash", "-euc", script, timeout=timeout, what=what)
    return text(done.stdout)


def _image(engine: outer.Engine) -> str:
    """Return an image with the tools, made from Debian's at the first call."""
    ours = "gpurack-testbed/workshop:5"  # with gcc for libcuda
    with _MAKING:
        if not engine.output("image", "inspect", "--format", "{{.Id}}", ours, check=False):
            progress(f"making the workshop image from {IMAGE}")
            name = "gpurack-testbed-workshop"
            engine.docker("rm", "-f", name, check=False)
            packages = " ".join([*sorted((*TOOLS.values(), *RPM.values())), "python3"])
            script = f"apt-get update && apt-get -y --no-install-recommends install {packages}"
            what = f"Making the workshop image from {IMAGE}"
            engine.docker("run", "--name", name, IMAGE, "bash", "-euc", script, timeout=600, what=what)
            engine.docker("commit", name, ours)
            engine.docker("rm", "-f", name)
    return ours


def mirror(engine: outer.Engine) -> str:
    """Return the URL of a Debian mirror: the one given, else this machine's own, else '' for mmdebstrap's default."""
    if given := os.environ.get("GPURACK_TESTBED_MIRROR"):
        return given
    targets = "apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)'"
    for line in work(engine, targets, what="Reading apt's sources").splitlines():
        origin, label, url = [*line.split(" "), "", ""][:3]
        if (origin, label) == ("Debian", "Debian"):
            return url
    return ""
