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
*" up "* | *" create "*)
    cp "$XDG_STATE_HOME/record.json" "$STATE/record.at_create" 2>/dev/null
    touch "$STATE/runs.$name"; exit;;
*"PortBindings"*)
    echo '{"status":"created","policy":"no","retries":0,"vanishes":false,"image":"i:1","ports":{}}';;
"container inspect --format {{json .Mounts}}"*) echo "[]";;
"container inspect"*)
    [ -e "$STATE/runs.$name" ] || { echo "No such container"; exit 1; }
    cat "$STATE/state.$name" 2>/dev/null ||
        echo '{"status":"running","restarts":0,"code":0,"error":"","pid":0,"started":""}';;
"stop "*) echo '{"status":"exited","restarts":0,"code":0,"error":"","pid":0,"started":""}' >"$STATE/state.$name";;
"start "*) rm -f "$STATE/state.$name";;
"rm --force"*) rm -f "$STATE/runs.$name";;
esac
"""
)
READY: list[str] = []
"""The models that were waited for, in order."""
COPY = "c0de" * 16
"""The id of a container that somebody made of ours by `docker commit` and `docker run`."""


def runner(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Any:
    """files/applying.py; each model that runs answers by its name."""
    module = load("applying")
    monkeypatch.setattr("dockerd.CONFIG", str(tmp_path / "etc"))
    monkeypatch.setattr("dockerd.USERS", str(tmp_path / "users"))
    monkeypatch.setattr("boot.USERS", str(tmp_path / "users"))
    monkeypatch.setattr("accounts.as_user", lambda user: (os.getuid(), ["env", f"OWNER={user}"]))
    monkeypatch.setattr("loading.wait_until_ready", lambda dockerd, name, *arguments: READY.append(name) or 0)
    monkeypatch.setattr("loading.STEADY", 0)
    monkeypatch.setattr("kept_logs.LOGS", str(tmp_path / "logs"))
    monkeypatch.setattr("databases.DATABASES", str(tmp_path / "databases"))
    READY.clear()
    monkeypatch.setattr(os, "chown", lambda *arguments: None)  # the tests need no root
    for part in ("starting", "boot"):
        monkeypatch.setattr(f"{part}.clock", lambda seconds: "0:00")
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
    job = module.Job({"ours": known, "projects": projects, "batches": list(groups)})
    job.apply()
    return SimpleNamespace(failures=job.failures)


def acts(fakes: Fakes) -> list[str]:
    """What was done to containers."""
    words = ("docker stop", "docker rm", "docker start", "docker rename", "docker kill")
    return [call for call in fakes.calls if call.startswith(words) or " up " in call or " create " in call]
