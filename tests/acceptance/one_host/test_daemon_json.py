"""An unreadable daemon.json is left for its owner to fix: it is never overwritten, and running containers continue."""

from __future__ import annotations

from typing import Any

import pytest

from tests.acceptance.conftest import Lab, chat, identities, model
from tests.testbed import Host

GOOD: dict[str, Any] = {"gamma": model("gamma", [], 8000)}
PATH = "/etc/docker/daemon.json"
BAD = {
    "not JSON": (b'{"debug": true,}\n', f"{PATH} is not JSON ("),
    "null": (b"null\n", f"{PATH} holds null, not an object."),
    "empty": (b"", f"{PATH} is empty, which is not JSON."),
    "BOM": (b'\xef\xbb\xbf{"debug": true}\n', f"{PATH} begins with a byte order mark (BOM), which is not JSON."),
}
REMEDY = f"It was not touched. Correct it, or move it away: mv {PATH} {PATH}.old"


def test_unreadable_file_on_fresh_host_installs_nothing(lab: Lab) -> None:
    """Docker would not start with it."""
    host = lab.testbed.recreate("cpu5")
    host.put(b"{]", PATH)
    packages = host.root("dpkg-query -W | md5sum").stdout
    run = lab.run(lab.inventory({"cpu5": {"models": GOOD}}))
    assert run.exit_code == 1, run.output
    assert not run.traceback, run.output
    (error,) = run.errors("cpu5")
    assert error.startswith(f"{PATH} is not JSON (")
    assert error.endswith(REMEDY)
    assert f"FAILED: {PATH} is not JSON" in run.row("cpu5", "gamma")
    assert host.get(PATH) == b"{]"
    assert host.root("dpkg-query -W | md5sum").stdout == packages

    host.root(f"mv {PATH} {PATH}.old")  # what the sentence says
    healed = lab.run(lab.inventory({"cpu5": {"models": GOOD}}))
    assert healed.exit_code == 0, healed.output
    assert chat(host, 8000) == lab.testbed.weights("gamma").sentence


@pytest.mark.parametrize("name", BAD)
def test_unreadable_file_on_serving_host_changes_nothing(lab: Lab, cpu5: Host, name: str) -> None:
    """The file, dockerd and the models are unchanged; the error says what is wrong and what to do."""
    content, sentence = BAD[name]
    good = cpu5.get(PATH)
    before, pid = identities(cpu5), cpu5.root("systemctl show docker -p MainPID --value").stdout
    cpu5.put(content, PATH)
    try:
        run = lab.run(lab.inventory({"cpu5": {"models": {"gamma": model("gamma", [], 8000, context=512)}}}))
        assert run.exit_code == 1, run.output
        assert not run.traceback, run.output
        (error,) = run.errors("cpu5")
        assert error.startswith(sentence)
        assert error.endswith(REMEDY)
        assert cpu5.get(PATH) == content
    finally:
        cpu5.put(good, PATH)
    assert cpu5.root("systemctl show docker -p MainPID --value").stdout == pid
    assert identities(cpu5) == before
    assert chat(cpu5, 8000) == lab.testbed.weights("gamma").sentence
