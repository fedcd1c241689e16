"""The snapshot, the probe of CUDA and a model of llama.cpp on a real NVIDIA GPU, and what its driver says of itself.

    python -m tests.device.bring BROUGHT            # here, if the machine has no Docker: what it lacks
    python -m tests.device.check make >check.sh     # here
    sh check.sh FOLDER [BROUGHT]                    # there, as root: at most 8 minutes; it changes nothing that lasts
    python -m tests.device.check read FOLDER        # here: what gpurack makes of it; exit code 1 for a fault

The machine needs sh and python3, no network and no package; with BROUGHT also CUDA's compiler, CMake and ninja. Without
BROUGHT, the variables IMAGE and MODEL name an image and a model of a machine with Docker and the toolkit; without those
the model is left out.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from gpurack.cuda_faults import fault
from gpurack.engines.probes import PYTHON
from gpurack.facts.model import HostFacts
from gpurack.facts.snapshot import Snapshot, script
from gpurack.plan.models.computing import CONTEXT
from gpurack.plan.models.desired import desire
from gpurack.plan.models.probes import cuda_probe
from gpurack.plan.questions import questions
from tests.given import host_state, models, uuid

END = "END OF {}"
FACTS = (
    "nvidia-smi -L",
    "nvidia-smi -q",
    "nvidia-smi --help-query-gpu",
    "nvidia-smi topo -m",
    "nvidia-smi topo -p2p r",
    "nvidia-smi mig -lgip",
    "cat /proc/devices",
    "ls -l /dev/nvidia* /dev/nvidia-caps",
)
"""What facts about GPU hosts are missing or were never seen on a real machine."""
ENTRY = {"gpus": [0], "image": "gpurack-device", "port": 8000}
CONTAINER = Path(__file__).with_name("container.sh")
SECONDS = 480
"""The most for all of it. The part with a container gets what the others leave, which is 80 at least."""


def make() -> str:
    """Return the program for the machine. What it writes to FOLDER is in `read`."""
    probe = shlex.join(["sh", *PYTHON.arguments])
    lines = [
        "set -u",
        "began=$(date +%s)",
        'mkdir -p "$1"',
        *_file("snapshot.sh", script(questions(models(alpha={})))),
        *_file("container.sh", container()),
        'timeout 120 sh "$1/snapshot.sh" >"$1/snapshot"',
        f'timeout 60 {probe} >"$1/probe" 2>&1',
        "{",
        *(f"echo '$ {fact}'; timeout 20 {fact} 2>&1; echo \"exit code $?\"" for fact in FACTS),
        f"echo '$ the probe without a visible GPU'; CUDA_VISIBLE_DEVICES= timeout 60 {probe} 2>&1",
        '} >"$1/facts"',
        '[ -z "${2-}${IMAGE-}" ] ||',
        f'\ttimeout "$(({SECONDS} - $(date +%s) + began))" unshare --mount --propagation private \\',
        '\t\tsh "$1/container.sh" "$1" "${2-}"',
    ]
    return "\n".join(lines) + "\n"


def _file(name: str, text: str) -> list[str]:
    end = END.format(name)
    return [f"cat >\"$1/{name}\" <<'{end}'", text, end]


def container() -> str:
    """Return the part with a container: container.sh, with gpurack's own words for the probe and the model."""
    desired = desire("alpha", models(alpha=ENTRY), host_state(gpus=1), (uuid(0),))
    probe = cuda_probe(desired)
    assert probe
    command, [weights, _] = desired.service["command"], desired.service["volumes"]
    given = _words(probe["run"][probe["run"].index("--device") :])
    return "\n".join([
        f'listing() {{ docker run --rm --network none {given} "$IMAGE" {shlex.join(probe["arguments"])}; }}',
        'serve() { docker run --detach --name "$name" --network host '
        f'--volume "$MODEL:{weights["target"]}:ro" {given} "$IMAGE" {shlex.join(command)}; }}',
        f"PORT={command[command.index('--port') + 1]}",
        CONTAINER.read_text(encoding="utf-8"),
    ])  # fmt: skip


def _words(options: list[str]) -> str:
    """Quote options, with the machine's own GPU."""
    return shlex.join(options).replace(uuid(0), '"$uuid"')


def read(folder: Path) -> tuple[list[str], list[str]]:
    """Return (lines about what was seen, faults) of the machine's files."""
    state = _snapshot(folder / "snapshot")
    printed = (folder / "probe").read_text(errors="replace")
    found = fault(printed, len(state.gpus) or 1)
    seen = [f"GPU {gpu.index}: {gpu.name}, {gpu.memory_total} MiB, {gpu.compute}, {gpu.uuid}" for gpu in state.gpus]
    seen += [f"driver {state.driver.kernel}, nvidia-smi exits with {state.driver.exit_code}"]
    faults = [f"the snapshot: {why}" for why in (state.trouble, *state.unread) if why]
    faults += [] if state.gpus else ["the snapshot saw no GPU"]
    faults += [f"the probe: {found}"] if found else []
    faults += [f"the probe printed no result: {printed.strip()[-300:]}"] if found is None else []
    if not (folder / "steps").exists():
        return [*seen, "no container was started"], faults
    more, wrong = _container(folder)
    return seen + more, faults + wrong


def _container(folder: Path) -> tuple[list[str], list[str]]:
    """Return what was seen of the part with a container, and its faults."""
    for line in (folder / "steps").read_text().splitlines():
        step, code, _ = line.split()
        if code != "0":
            said = (folder / step).read_text(errors="replace").strip()
            return [], [f"{step} ended with {code}: {said[-300:]}"]
    if not (folder / "serving").exists():
        return [], ["the part with a container took too long"]
    listed, model = (folder / "listed").read_text(errors="replace"), (folder / "container").read_text().strip()
    found, state = fault(listed, 1), _snapshot(folder / "serving")
    mine = [process for process in state.gpu_processes if process.container and process.container == model]
    seen = [f"the model answered: {(folder / 'answer').read_text(errors='replace').strip()}"]
    seen += [f"it has {process.memory} MiB on {process.uuid}" for process in mine]
    faults = [f"the probe in a container: {found}"] if found else []
    faults += ["the probe in a container listed no devices"] if found is None else []
    faults += [] if any((one.memory or 0) >= CONTEXT for one in mine) else ["the model has no memory on a GPU"]
    return seen, faults


def _snapshot(path: Path) -> HostFacts:
    return Snapshot().process(path.read_text(errors="replace").splitlines())


def main(words: list[str]) -> int:
    """Carry out one of the verbs."""
    match words:
        case ["make"]:
            sys.stdout.write(make())
            return 0
        case ["read", folder]:
            seen, faults = read(Path(folder))
            print(*seen, *faults, sep="\n")
            return 1 if faults else 0
        case _:
            sys.stderr.write(str(__doc__))
            return 64


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
