"""A host for the attacks: the models' runner with a fake of Docker, also of a user's."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpurack.plan.models import compose
from tests.unit.host_programs import CONTAINERS, Fakes, container_id, load

DOCKER = (
    CONTAINERS
    + """
case "$*" in
"image inspect"*) exit 0;;
*" config "*) exit 0;;
*" up "*) cp "$XDG_STATE_HOME/record.json" "$STATE/record.at_up" 2>/dev/null; touch "$STATE/runs.$name"; exit;;
"container inspect --format {{json .Mounts}}"*) echo "[]";;
"container inspect"*)
    [ -e "$STATE/runs.$name" ] || exit 1
    cat "$STATE/state.$name" 2>/dev/null || echo '{"status":"running","restarts":0,"code":0,"error":""}';;
"top"*) printf 'PID\\n42\\n';;
"rm --force"*) rm -f "$STATE/runs.$name";;
esac
"""
)
COPY = "c0de" * 16
"""The id of a container that somebody made of ours by `docker commit` and `docker run`."""


def runner(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Any:
    """files/models.py; each model that runs answers by its name."""
    module = load("models")
    monkeypatch.setattr("dockerd.CONFIG", str(tmp_path / "etc"))
    monkeypatch.setattr("dockerd.USERS", str(tmp_path / "users"))
    monkeypatch.setattr("boot.USERS", str(tmp_path / "users"))
    monkeypatch.setattr("dockerd.REPLACED", str(tmp_path / "replaced"))
    monkeypatch.setattr("dockerd.as_user", lambda user: (os.getuid(), ["env", f"OWNER={user}"]))
    monkeypatch.setattr(module, "probe", lambda dockerd, name, url: (200, f'"{name}"'))
    monkeypatch.setattr(os, "chown", lambda *arguments: None)  # the tests need no root
    for part in (module, module.boot):
        monkeypatch.setattr(part, "clock", lambda seconds: "0:00")
    fakes.add("docker", DOCKER)
    fakes.known("alpha", "beta", "gamma")
    return module


def entry(name: str, action: str = "create", user: str = "", **over: Any) -> dict[str, Any]:
    """A model in the job."""
    return {
        "name": name, "action": action, "user": user, "from": user, "image": "i:1", "uuids": [], "timeout": 5,
        "url": "http://127.0.0.1:1/", "served_name": name, "definition": f"of-{name}", **over,
    }  # fmt: skip


def carry_out(module: Any, *groups: list[dict[str, Any]], ours: Any = None) -> SimpleNamespace:
    """A job of these groups. ours: user → names."""
    services: dict[str, dict[str, Any]] = {"": {}}
    for model in (model for group in groups for model in group):
        services.setdefault(model["user"], {}).update({model["name"]: {"image": "i:1"}})
        services.setdefault(model["from"], {})
    projects = {
        user: {"head": compose.head(user), "services": compose.blocks(found, user), "before": {}, "files": {}}
        for user, found in services.items()
    }
    known = {user: {name: container_id(name) for name in names} for user, names in (ours or {}).items()}
    job = module.Job({"ours": known, "projects": projects, "groups": list(groups)})
    job.apply()
    return SimpleNamespace(failures=job.failures)


def acts(fakes: Fakes) -> list[str]:
    """What was done to containers."""
    words = ("docker stop", "docker rm", "docker start", "docker rename", "docker kill")
    return [call for call in fakes.calls if call.startswith(words) or " up " in call]
