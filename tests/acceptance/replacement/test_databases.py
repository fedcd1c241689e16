"""A service's database goes with its version: after a version that fails, and after `rollback` with and without it.

The page is a stand-in of Open WebUI with three versions; the third one changes the database and fails.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.acceptance import hook
from tests.acceptance.conftest import Lab, Run, model
from tests.acceptance.replacement.conftest import NAME, record, serves_again
from tests.testbed import Host

pytestmark = pytest.mark.usefixtures("untouched")

PORT = 3001
VOLUME = "gpurack_open-webui-chat"


def serve(lab: Lab, version: str) -> Run:
    """Run the main job with this version of the page, and a model that it connects to."""
    chat = {"engine": "open-webui", "version": version, "port": PORT, "connects_to": ["alpha"]}
    data: dict[str, Any] = {"models": {"alpha": model("alpha", [], 8000)}, "services": {"chat": chat}}
    return lab.run(lab.inventory({NAME: data}))


def notes(host: Host, text: str = "") -> Any:
    """The notes in the page's database, after adding one."""
    given = f"-d '{json.dumps({'text': text})}'" if text else ""
    return json.loads(host.root(f"curl -sSf --max-time 5 {given} http://127.0.0.1:{PORT}/notes").stdout)


def test_database_goes_with_its_version(lab: Lab, host: Host) -> None:
    lab.testbed.serve_engines("open-webui-versions")
    hook.release(host)
    host.root(f"docker rm -f chat; docker volume rm -f {VOLUME}; rm -rf /var/lib/gpurack/databases/_/chat", check=False)
    assert (run := serve(lab, "0.11.1")).exit_code == 0, run.output
    assert notes(host, "first") == ["first"]

    failed = serve(lab, "0.11.3")
    assert failed.exit_code == 1, failed.output
    serves_again(failed, "chat")
    assert "no such table: access_grant" in failed.output
    assert notes(host) == ["first"]

    assert (run := serve(lab, "0.11.2")).exit_code == 0, run.output
    assert notes(host, "second") == ["first", "second"]
    (copy,) = record(host)["databases"][""]["chat"]
    assert copy["image"].endswith(":v0.11.1")
    assert host.root("cd /var/lib/gpurack/databases/_/chat && stat -c '%n %a %U' *").stdout.split() == [
        copy["copy"], "600", "root",
    ]  # fmt: skip

    inventory = lab.folder / "lab.py"
    options = ("-y", "--data", f"rollback={NAME}/chat", "--data", "with_data=yes")
    back = lab.run(inventory, *options, deploy="rollback")
    assert back.exit_code == 0, back.output
    assert "its database goes back to the copy of " in back.output
    assert notes(host) == ["first"]
    assert [one["image"].rpartition(":")[2] for one in record(host)["databases"][""]["chat"]] == ["v0.11.2", "v0.11.1"]
