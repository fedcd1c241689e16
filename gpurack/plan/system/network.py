"""What a host in a closed network needs first: a proxy (`proxy`), certificates to trust (`ca`). Pure.

dockerd reads its proxy from its environment, and the trust store, only at its start (docs.docker.com "Daemon proxy
configuration"; Go reads the system's certificates once). `proxies` in daemon.json would work as well, but dockerd
before 23 refuses a file with it. Besides, the file is the admin's, while a proxy that is removed from the inventory
must be removed from the host.
"""

import hashlib

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Unit
from gpurack.plan.packages.platforms import Platform
from gpurack.plan.steps import Shell, Step, owe_restart, written
from gpurack.shell import all_of, sh
from gpurack.spec.host import Host
from gpurack.spec.network import Proxy

HEAD = "# Written by gpurack from the inventory."


def plan_network(spec: Host, facts: HostFacts, platform: Platform) -> list[Step]:
    """Return the steps that set dockerd's proxy and the trusted certificates.

    platform.packages.proxy sets the package manager's proxy.
    """
    steps = certificates(spec, facts, platform) + docker_proxy(spec, facts)
    if steps and facts.units.get("docker.service", Unit()).active == "active":
        # noted first, so that a run that is killed in between leaves the mark
        return [owe_restart("its proxy or the certificates it trusts changed"), *steps]
    return steps


def docker_proxy(spec: Host, facts: HostFacts) -> list[Step]:
    """Return the steps that set dockerd's proxy, for images."""
    path = paths.DOCKER_PROXY
    if spec.proxy is None:
        if path not in facts.files:
            return []
        return [Shell("remove the proxy for Docker", sh("rm -f {} && systemctl daemon-reload", path))]
    text = dropin_text(spec.proxy)
    steps = written(f"proxy {spec.proxy.url} for Docker", path, text, facts)
    return [*steps, Shell("reload systemd", sh("systemctl daemon-reload"))] if steps else []


def dropin_text(proxy: Proxy) -> str:
    """Return the drop-in for dockerd's unit."""
    return "\n".join([f"{HEAD}\n[Service]", *environment(proxy)]) + "\n"


def environment(proxy: Proxy | None) -> list[str]:
    """Return lines of a unit with a daemon's proxy. `%` and `"` are escaped for systemd."""
    variables = proxy.env.items() if proxy else ()
    lines = [f"{name.upper()}={value}".replace("%", "%%").replace('"', '\\"') for name, value in variables]
    return [f'Environment="{line}"' for line in lines]


def certificates(spec: Host, facts: HostFacts, platform: Platform) -> list[Step]:
    """Return the steps that add the private authority's certificates to the trust store, one file each.

    Those of an earlier authority are removed.
    """
    trust = platform.trust
    wanted = {f"{trust.folder}/gpurack-{digest(text)}.crt": text for text in spec.certificates()}
    left = sorted(path for path in facts.files if path.startswith(f"{trust.folder}/gpurack-") and path not in wanted)
    # A program rebuilds the store. Its input is noted only after it has succeeded.
    remembered = "".join(f"{path}\n" for path in wanted)
    if not left and (facts.files[paths.TRUSTED].text if paths.TRUSTED in facts.files else "") == remembered:
        return []
    steps: list[Step] = []
    if "ca-certificates" not in facts.packages or not facts.packages["ca-certificates"].whole:
        steps.append(platform.packages.install("install ca-certificates", {"ca-certificates": None}, facts))
    for path, text in wanted.items():
        steps += written("certificate of the private authority", path, text, facts)
    names = f"trust {spec.ca}" if wanted else "stop trusting the private authority"
    gone = [sh("rm -f {}", left)] if left else []
    note = sh("mkdir -p {} && printf %s {} > {}", paths.STATE, remembered, paths.TRUSTED)
    steps.append(Shell(names, all_of([*gone, trust.command, note])))
    return steps


def digest(text: str) -> str:
    """Return a short name for a certificate."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
