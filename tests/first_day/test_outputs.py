"""What scripts get of a mistake: JSON with --json, and an exit code also where an output is closed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpurack.commands.main import main
from tests import forked

FOR_PROGRAMS = [
    name for name, verb in main.commands.items() if any("--json" in parameter.opts for parameter in verb.params)
]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        *(([verb], "command-line-wrong" if verb == "import" else "inventory-not-given") for verb in FOR_PROGRAMS),
        *(([verb, "--wrong"], "command-line-wrong") for verb in FOR_PROGRAMS),
        (["plan", "lab.yaml", "other.yaml"], "command-line-wrong"),
        (["import", "--yaml"], "command-line-wrong"),
        (["endpoints", ""], "inventory-not-a-file"),
        (["diff", "deploy.py"], "deploy-given"),
        (["import", "start.sh"], "command-line-wrong"),
        (["lock"], "inventory-not-given"),
        (["stauts"], "command-line-wrong"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_mistake_with_json_is_one_json_object(tmp_path: Path, words: list[str], code: str) -> None:
    (tmp_path / "deploy.py").write_text("from gpurack.deploys import gpu_host\n")
    given = ["--set", "x"] if words == ["import"] else []
    done = forked.run(
        lambda: main(prog_name="gpurack"), ["gpurack", *words, *given, "--json"], {"HOME": str(tmp_path)}, tmp_path
    )
    (error,) = (data := json.loads(done.stdout))["errors"]
    assert (done.returncode, done.stderr, data["schema"], error["code"]) == (2, "", 1, code)
    assert error["message"]


@pytest.mark.parametrize(
    ("words", "code", "closed"),
    [("--version", 0, ">&-"), ("plan no.yaml", 2, ">&-"), ("plan --json", 2, "2>&-"), ("plan", 2, "<&- >&- 2>&-")],
)
def test_closed_output_changes_no_exit_code(tmp_path: Path, words: str, code: int, closed: str) -> None:
    command = f"{sys.executable} -m gpurack {words} {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_file_opened_later_is_not_taken_for_a_closed_output(tmp_path: Path) -> None:
    """Programs that a command starts write into the descriptors 1 and 2."""
    program = "import gpurack.commands, subprocess; file = open('file', 'w'); subprocess.run(['echo', 'lost'])"
    subprocess.run(["sh", "-c", f'{sys.executable} -c "{program}" >&-'], cwd=tmp_path, check=True)
    assert (tmp_path / "file").read_text() == ""
