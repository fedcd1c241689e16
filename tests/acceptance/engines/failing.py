"""Shared by the tables of failures: expected errors, and what causes some of the failures."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from tests.acceptance.conftest import Run
from tests.testbed import Host

KEY, OTHER = "sk-house-94c1d7e0", "sk-other-27b6a3f8"
KEYED = {"api_key": {"env": "KEY"}}
FLAG = {"args": {"no-such-flag": 1}}
LIMITED = 'ulimit -v 4000000; exec "$@"'
"""Kilobytes of address space. Memory limits have no effect here, and without any limit a machine may promise terabytes
and swap until nothing else runs.
"""

PATH = "Copy them there, or set {"
READ = "It cannot read its weights. Check that `weights` names the right file or folder, complete and in its format."
FITS = "It does not fit on its GPUs: give it more or larger GPUs, reduce its `context`, or lower the `vram` of models"
MEMORY = "The host has too little memory for it. Reduce its `context`, or use a smaller model."
ARGS = "Correct `args"
API_KEY = "Set the key in `api_key` only, not in env, args or the image."
HELD, PORT = "is already in use by process python3 (pid ", "Stop it or use another port."
ENDED = "exited while loading ("
REFUSED = "its program refuses its arguments: "
DAMAGED = "its weights are damaged: noise.gguf is not a GGUF file. Fetch or copy "
ENDS = re.escape(ENDED) + r"(exit code [1-9]\d*|crashed and was restarted)\)\."
""""crashed" is reported if Docker has restarted it and its events (256, of all containers) go no further back."""

Case = tuple[str, str, dict[str, Any], str, str]
"""(engine, failure, difference from a good entry, expected error, expected hint)"""

# (the first process of a container is stopped at once only when it says that it wants to be)
SILENT = {"entrypoint": ["sh", "-c", "trap exit TERM; echo loading for ages; sleep infinity & wait"]}
SHORT_WAIT = """\
from gpurack.spec.model import Model

Model.ready_seconds = 15  # instead of half an hour; long enough to say "loading" on a slow machine, too

from gpurack.deploys import gpu_host  # noqa: E402

gpu_host()
"""


def entry_of(case: Case) -> str:
    """The name of the failing model or service of a row."""
    return f"{case[0].replace('.', '-')}-{case[1]}"


def sentence(run: Run, host: str, name: str) -> str:
    """The error about a model or service below the table. Those with the same error share a line."""
    found = [error.partition(": ") for error in run.errors(host)]
    found = [error for error in found if name in error[0].split(", ")]
    assert len(found) == 1, f"{name}: {found}\n{run.output}"
    return found[0][2]


def ends_as(run: Run, host: str, case: Case) -> None:
    """The entry of a row failed with the expected error and hint."""
    said = sentence(run, host, entry_of(case))
    assert case[3] in said
    assert case[3] != ENDED or re.match(ENDS, said)
    assert case[4] in said
    assert "FAILED" in run.row(host, entry_of(case))


def hold(host: Host, ports: Sequence[int], unit: str = "holder") -> None:
    """Another process on the host listens on these ports until the unit is stopped."""
    listen = f'import signal, socket; kept = [socket.create_server(("127.0.0.1", port)) for port in {list(ports)}]'
    host.root(f"systemctl stop {unit}", check=False)
    host.root(f"systemd-run --collect --unit={unit} python3 -c {shlex.quote(f'{listen}; signal.pause()')}")


def never_ready(run: Run, host: str, ports: dict[str, int]) -> None:
    """Entries (name → port) that did not answer until the run stopped waiting. Each ends with that error."""
    assert run.exit_code == 1, run.output
    for name, port in ports.items():
        said = sentence(run, host, name)
        assert re.match(r"not ready after (1[5-9]|[2-5]\d) s", said), said  # a busy machine looks late
        assert f"http://127.0.0.1:{port}/" in said
        assert f"Its log: /var/lib/gpurack/logs/_/{name}.failed.log" in said
        assert f"{name}: loading" in run.output
    assert "| loading for ages" in run.output
