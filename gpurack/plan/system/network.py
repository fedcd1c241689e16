"""What a host needs in a closed network before anything else: the way out (`proxy`), and whom to trust (`ca`). Pure.

dockerd reads its proxy from its environment, and the trust store, only when it starts. daemon.json's `proxies` would
do, too, but dockerd before 23 refuses a file with it, and the file is the admin's: what is taken out of the inventory
must go from the host. (docs.docker.com "Daemon proxy configuration"; Go reads the system's certificates once.)
"""

import hashlib

from gpurack import paths
from gpurack.facts.model import HostFacts, Unit
from gpurack.plan.packages.platforms import Platform
from gpurack.plan.steps import Shell, Step, owe_restart, written
from gpurack.shell import all_of, sh
from gpurack.spec.host import Host
from gpurack.spec.network import Proxy

HEAD = "# Written by gpurack from the inventory."


def plan_network(spec: Host, facts: HostFacts, platform: Platform) -> list[Step]:
    """What makes the host trust and dockerd reach the outside as the inventory says. The package manager's own way out
    is platform.packages.proxy."""
    steps = certificates(spec, facts, platform) + docker_proxy(spec, facts)
    if steps and facts.units.get("docker.service", Unit()).active == "active":
        # owed before it is due: a run that is killed in between leaves the mark
        return [owe_restart("its proxy or the certificates it trusts changed"), *steps]
    return steps


def docker_proxy(spec: Host, facts: HostFacts) -> list[Step]:
    """dockerd's way out, for images."""
    path = paths.DOCKER_PROXY
    if spec.proxy is None:
        if path not in facts.files:
            return []
        return [Shell("remove the proxy for Docker", sh("rm -f {} && systemctl daemon-reload", path))]
    text = dropin_text(spec.proxy)
    steps = written(f"proxy {spec.proxy.url} for Docker", path, text, facts)
    return [*steps, Shell("reload systemd", sh("systemctl daemon-reload"))] if steps else []


def dropin_text(proxy: Proxy) -> str:
    """What dockerd's unit is given beside its own lines."""
    return "\n".join([f"{HEAD}\n[Service]", *environment(proxy)]) + "\n"


def environment(proxy: Proxy | None) -> list[str]:
    """The lines of a unit that tell a daemon its way out; `%` and `"` mean something to systemd."""
    variables = proxy.env.items() if proxy else ()
    lines = [f"{name.upper()}={value}".replace("%", "%%").replace('"', '\\"') for name, value in variables]
    return [f'Environment="{line}"' for line in lines]


def certificates(spec: Host, facts: HostFacts, platform: Platform) -> list[Step]:
    """The private authority's certificates in the host's trust store, one file each; those of an earlier one go."""
    trust = platform.trust
    wanted = {f"{trust.folder}/gpurack-{digest(text)}.crt": text for text in spec.certificates()}
    left = sorted(path for path in facts.files if path.startswith(f"{trust.folder}/gpurack-") and path not in wanted)
    # The store is made anew by a program of its own; what it was made of last is remembered only after it has ended.
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
    """A short name for a certificate."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
