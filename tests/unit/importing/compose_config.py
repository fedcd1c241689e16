"""Compose files by Compose's own rules, and what `docker compose config` makes of them.

`compose_config.json` was recorded with Docker Compose 2.40.3 by `python -m tests.unit.importing.compose_config PLUGIN`,
where PLUGIN is its program. No test needs it.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

FOLDER = Path(__file__).parent
RECORDED = FOLDER / "compose_config.json"
VOLUMES = "volumes: {vol: {}, web: {}, ollama: {}}\n"
SET = {"A": "a", "EMPTY": "", "N": "7", "HF_TOKEN": "h", "PGPASS": "p", "NGC_API_KEY": "n", "CHAT_PORT": "9"}
"""The variables of all cases."""


@dataclass(frozen=True)
class Case:
    """One compose file. files: those beside it. profiles: the chosen ones."""

    text: str
    files: Mapping[str, str] = field(default_factory=dict)
    profiles: Sequence[str] = ()


def cases() -> dict[str, Case]:
    """All cases: those written here, and the compose files of public shapes."""
    text = (FOLDER / "compose_cases.yaml").read_text(encoding="utf-8")
    written = {name: Case(**case) for name, case in yaml.safe_load(text).items()}
    public = {path.stem: Case(path.read_text(encoding="utf-8")) for path in (FOLDER / "public").glob("*.yml")}
    every = {**written, **public}
    return {name: replace(case, text=with_volumes(case.text)) for name, case in sorted(every.items())}


def with_volumes(text: str) -> str:
    """The text with the volumes that its services name, which Compose requires."""
    return text if text[0] == "{" or "\nvolumes:" in text else f"{text}\n{VOLUMES}"


def config(plugin: str, case: Case) -> Any:
    """The services, secrets and configs that `docker compose config` prints; its error if it refuses the file."""
    with TemporaryDirectory() as folder:
        for name, text in {"compose.yaml": case.text, **case.files}.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        chosen = [word for profile in case.profiles for word in ("--profile", profile)]
        command = [plugin, "-p", "p", *chosen, "config", "--no-env-resolution", "--format", "json"]
        variables = {**SET, "HOME": folder}
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1].replace(folder, ".")
    said = json.loads(done.stdout.replace(folder, "."))
    return {key: said[key] for key in ("services", "secrets", "configs") if key in said}


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(config(sys.argv[1], case))}" for name, case in cases().items()]
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
