"""The wheel brings everything: builds it, installs it in a bare environment outside of the checkout, and uses it there.

    python -m tests.wheel

About half a minute. It ends with 1 at the first thing that is wrong.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
FOLDERS = ("files", "templates", "docs")
"""What the wheel carries beside the package."""
UNREACHABLE = 4
"""The exit code of `gpurack apply` for the host of a new project, which does not exist."""
DEPLOY = """\
import sys
from pathlib import Path

from gpurack.deploys import gpu_host

place = Path(sys.modules[gpu_host.__module__].__file__ or "").resolve()
assert Path(sys.prefix).resolve() in place.parents, f"imported from {place}"
"""


def main() -> None:
    """Build, check, install and use the wheel."""
    with tempfile.TemporaryDirectory(prefix="gpurack-wheel-") as name:
        folder = Path(name)
        python = [sys.executable, "-m"]
        run([*python, "build", "--no-isolation", "--outdir", str(folder / "dist"), str(CHECKOUT)], folder)
        run([*python, "twine", "check", "--strict", *map(str, (folder / "dist").iterdir())], folder)
        (wheel,) = (folder / "dist").glob("*.whl")
        require_complete(wheel)
        install(wheel, folder / "venv")
        use(folder / "venv")
    print("The wheel brings everything.")


def require_complete(wheel: Path) -> None:
    """Raise AssertionError if a file of the checkout is missing in the wheel."""
    inside = set(zipfile.ZipFile(wheel).namelist())
    tracked = run(["git", "ls-files", "gpurack", *FOLDERS, "README.md"], CHECKOUT).splitlines()
    wanted = {name if name.startswith("gpurack/") else f"gpurack/{name}" for name in tracked}
    assert wanted <= inside, f"missing in the wheel: {sorted(wanted - inside)}"


def install(wheel: Path, venv: Path) -> None:
    """A bare environment: gpurack's own dependencies as locked, and the wheel."""
    run([sys.executable, "-m", "venv", "--without-pip", str(venv)], venv.parent)
    run([*pip(venv), "install", "-q", "--require-hashes", "-r", str(CHECKOUT / "requirements/run.txt")], venv.parent)
    run([*pip(venv), "install", "-q", "--no-deps", str(wheel)], venv.parent)
    run([*pip(venv), "check"], venv.parent)


def pip(venv: Path) -> list[str]:
    """This environment's pip, for one that has none."""
    return [sys.executable, "-m", "pip", "--python", str(venv / "bin/python"), "--disable-pip-version-check"]


def use(venv: Path) -> None:
    """What a new user types, and what a pyinfra project imports."""
    gpurack, lab = str(venv / "bin/gpurack"), venv.parent / "lab"
    assert run([gpurack, "--version"], venv.parent).startswith("gpurack, version ")
    run([gpurack, "init", "lab", "--lab", "wheel"], venv.parent)
    run([*pip(venv), "install", "-q", "--dry-run", "-r", "requirements.txt"], lab)  # with what `gpurack verify` needs
    assert "1 host, 0 models, 1 disabled. Next: gpurack apply" in run([gpurack, "plan"], lab)
    said = run([gpurack, "apply", "-y"], lab, exit_code=UNREACHABLE).splitlines()
    assert any(line.startswith("UNREACHABLE  gpu1.lab  could not connect: ") and "`ssh " in line for line in said), said
    assert said[-1].startswith("1 host unreachable. 0 of 0 models ready. "), said
    assert "gpurack diff inventories/lab.yaml" in run([gpurack, "diff", "--help"], lab)
    run(["bash", "-n"], lab, run([gpurack, "completion", "bash"], lab))
    assert run([gpurack, "schema"], lab) == (lab / "gpurack.schema.json").read_text(encoding="utf-8")
    run([str(venv / "bin/python"), "-c", DEPLOY], lab)


def run(command: Sequence[str], folder: Path, stdin: str = "", exit_code: int = 0) -> str:
    """The output of a command that ends with this exit code. It sees nothing of the checkout."""
    print("$", *(word for word in command if "\n" not in word), flush=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=folder, env=environment, input=stdin, capture_output=True, text=True)
    if done.returncode != exit_code:
        sys.exit(f"{done.stdout}{done.stderr}\n{command[0]} ended with exit code {done.returncode}.")
    return done.stdout


if __name__ == "__main__":
    main()
