"""One GGUF file of a repository with several: only that one is fetched, and llama.cpp serves it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import Lab, chat, model
from tests.testbed import Host
from tests.testbed.inventory import mirrors
from tests.testbed.services import WEIGHTS

COMMIT = "27dcfa74d334bc871f3234de431e71c6eeba5dd6"
FOLDER = "/var/lib/gpurack/weights/hf"


@pytest.fixture(scope="module")
def hub(lab: Lab) -> Iterator[None]:
    """lab/ggufs at http://weights.testbed/files: two models, one of them in a folder."""
    place = WEIGHTS / "files"
    shutil.rmtree(place, ignore_errors=True)
    siblings = []
    for name, served in {"beta.gguf": "beta", "q4/gamma.gguf": "gamma"}.items():
        path = place / "lab/ggufs/resolve" / COMMIT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(WEIGHTS / f"{served}.gguf")
        size = path.stat().st_size
        siblings.append({"rfilename": name, "size": size, "lfs": {"sha256": lab.testbed.weights(served).sha256}})
    listing = place / "api/models/lab/ggufs/revision/main"
    listing.parent.mkdir(parents=True)
    listing.write_text(json.dumps({"sha": COMMIT, "siblings": siblings}))
    yield
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def host(lab: Lab, hub: None) -> Host:
    host = lab.testbed.host("cpu2")
    lab.settle(host, {"one": model("alpha", [], 8000)})
    host.root(f"rm -rf {FOLDER}")
    return host


def test_fetches_only_named_file(lab: Lab, host: Host) -> None:
    def wanted(file: str) -> dict[str, object]:
        entry = {"weights": {"hf": "lab/ggufs", "file": file}, "gpus": [], "port": 8000}
        return {
            "cpu2": {"models": {"one": entry}, "mirrors": {**mirrors(), "huggingface": "http://weights.testbed/files"}}
        }

    run = lab.run(lab.inventory(wanted("q8/gamma.gguf")))
    (error,) = run.errors("cpu2")
    assert error == "one: lab/ggufs has no file q8/gamma.gguf. Correct `file`; it has beta.gguf, q4/gamma.gguf"
    assert chat(host, 8000) == lab.testbed.weights("alpha").sentence

    run = lab.run(lab.inventory(wanted("q4/gamma.gguf")))
    assert run.exit_code == 0, run.output
    assert chat(host, 8000) == lab.testbed.weights("gamma").sentence
    there = host.root(f"cd {FOLDER} && find . -type f | sort").stdout.split()
    folder = "./lab--ggufs@main--q4--gamma/q4/gamma.gguf"
    assert there == [folder, f"{folder}.json"]
    run = lab.run(lab.inventory(wanted("q4/gamma.gguf")))
    assert run.unchanged, run.output
    assert host.ssh_commands(run.begun) == 1
