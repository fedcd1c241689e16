"""Taking away what gpurack put there: models and project always, Docker and toolkit when asked, data never. Pure."""

from gpurack import paths
from gpurack.plan.apt import ENV, GET, patiently
from gpurack.plan.platforms import CE_PACKAGES, DEBIAN, TOOLKIT_PACKAGES, UBUNTU
from gpurack.plan.restart import foreign_running
from gpurack.plan.steps import Plan, Shell, Step
from gpurack.state.model import HostState

ASKABLE = ("models", "all")


def plan_remove(state: HostState, what: str) -> Plan:
    """what: "models", or "all" for Docker and the toolkit too. Weights, images, volumes and daemon.json stay."""
    if what not in ASKABLE:
        return Plan(errors=(f'remove="{what}" is not known; write --data remove=models or --data remove=all.',))
    foreign = foreign_running(state)
    if what == "all" and foreign:
        return Plan(
            errors=(f"Docker stays, because containers that are not gpurack's run in it: {', '.join(foreign)}.",)
        )
    steps: list[Step] = []
    names = sorted(state.ours)
    if names:
        steps.append(Shell(f"remove {', '.join(names)}", f"docker rm --force {' '.join(names)} >/dev/null", slow=True))
        network = "docker network rm gpurack_default >/dev/null 2>&1 || true"
        steps.append(Shell("remove the project's network", network))
    if paths.BOOT_UNIT in state.files:
        command = f"systemctl disable -q gpurack.service; rm -f {paths.BOOT_UNIT}; systemctl daemon-reload"
        steps.append(Shell("remove gpurack.service", command))
    if any(path.startswith((paths.CONFIG, paths.LIB)) for path in (*state.files, *state.secrets)):
        steps.append(Shell("remove compose.yaml, secrets and the runner", f"rm -rf {paths.CONFIG} {paths.LIB}"))
    if what == "all":
        steps += packages(state)
    return Plan(tuple(steps))


def packages(state: HostState) -> list[Step]:
    """The packages and our repository files. `remove`, not `purge`: configuration and /var/lib/docker stay."""
    steps: list[Step] = []
    known = dict.fromkeys((*TOOLKIT_PACKAGES, *CE_PACKAGES, *DEBIAN, *UBUNTU))
    there = [name for name in known if name in state.packages]
    if there:
        names = " ".join(there)
        command = f"{ENV} {patiently(f'apt-mark unhold {names}')} && {GET} remove {names}"
        steps.append(Shell(f"remove {', '.join(there)}", command, slow=True))
    files = [path for path in (*state.sources, *state.files) if "/gpurack-" in path]
    if files:
        steps.append(Shell("remove gpurack's repository files and keys", f"rm -f {' '.join(sorted(set(files)))}"))
    return steps
