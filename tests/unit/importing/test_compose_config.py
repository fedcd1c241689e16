"""The reader of compose files reads what Docker Compose itself reads (recorded: compose_config.py)."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import yaml

from gpurack.importing import compose_file
from gpurack.importing.compose_yaml import MAPS, ONE_OR_MORE, dotenv, scalar
from gpurack.importing.container import ContainerRun, Mount
from tests.unit.importing.compose_config import RECORDED, SET, Case, cases

SAID: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))
CASES = cases()


def meaning(text: str, case: Case) -> dict[str, ContainerRun]:
    """The containers of a compose file by name, each setting in one form."""
    variables = {**dotenv(case.files.get(".env", "")), **SET}
    runs, _, _ = compose_file.read(text, variables, case.files, case.profiles)
    return {run.name or "": replace(run, mounts=tuple(sorted(map(plain_mount, run.mounts), key=str)),
            ports=tuple(sorted(run.ports, key=str)), compose=plain(run.compose)) for run in runs}  # fmt: skip


def plain_mount(mount: Mount) -> Mount:
    """A mount without the option that `docker compose config` adds to each short form."""
    options = ((section, name, str(value)) for section, name, value in mount.options if name != "create_host_path")
    return replace(mount, options=tuple(options))


def plain(value: Any, key: str = "") -> Any:
    """A setting in the form of `docker compose config`, with every scalar as text."""
    if key in MAPS:
        return {name: scalar(item).rstrip("=") for name, item in map_of(value).items()}
    if isinstance(value, dict):
        return {name: plain(item, name) for name, item in value.items()}
    if key in ONE_OR_MORE and isinstance(value, str):
        return [value]
    if key == "devices":
        return [device(item) for item in value]
    if isinstance(value, list):
        return [plain(item) for item in value]
    if key == "test" and isinstance(value, str):
        return ["CMD-SHELL", value]
    size = re.fullmatch(r"(\d+)([kmg])b?", scalar(value))
    return str(int(size[1]) << 10 * (1 + "kmg".index(size[2]))) if size else scalar(value)


def map_of(settings: Any) -> dict[str, Any]:
    """A map of settings, also for a list of `NAME=value` or `NAME:value`."""
    if isinstance(settings, dict):
        return settings
    return dict(re.split("[=:]", f"{item}=", maxsplit=1) for item in settings)


def device(settings: Any) -> dict[str, str]:
    """A device in the long form."""
    if isinstance(settings, dict):
        return settings
    source, target, permissions, *_ = [*str(settings).split(":"), "", ""]
    return {"source": source, "target": target or source, "permissions": permissions or "rwm"}


@pytest.mark.parametrize("name", [name for name, said in SAID.items() if not isinstance(said, str)])
def test_reads_what_compose_reads(name: str) -> None:
    assert meaning(CASES[name].text, CASES[name]) == meaning(yaml.safe_dump(SAID[name]), Case(""))


def test_every_case_is_recorded() -> None:
    assert list(SAID) == list(CASES)


def test_most_cases_are_accepted_by_compose() -> None:
    refused = {name for name, said in SAID.items() if isinstance(said, str)}
    assert refused == {"ok-bad-indent", "ok-no-services", "ok-tabs", "yaml-on-yes"}
