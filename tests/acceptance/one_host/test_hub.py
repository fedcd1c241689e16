"""Weights from a hub: fetched as a folder while the old model serves, mounted, and not requested again. The hub is the
testbed's web server, with files at the Hub's addresses.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, chat, containers, model
from tests.acceptance.evidence import lifetimes, sampled
from tests.acceptance.one_host.test_secrets import places
from tests.testbed import Host
from tests.testbed.services import WEIGHTS

COMMIT = "27dcfa74d334bc871f3234de431e71c6eeba5dd6"
REPOSITORY = {"config.json": b'{"model_type": "llama"}', "README.md": b"# tiny", "onnx/model.onnx": b"another format"}
FOLDER = "/var/lib/gpurack/weights/hf/lab--tiny@main"
TOKEN = "hf_8c41d0b7"
HUB = "http://weights.testbed/throttle/500k/hub"  # so that the download takes some seconds
ARGUMENTS = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"
CURLS = f"{ARGUMENTS} | grep -aoE 'curl [^|]*gamma.gguf|hf_8c[0-9a-f]*' | head -c 500"


@pytest.fixture(scope="module")
def hub(lab: Lab) -> Iterator[None]:
    """lab/tiny, with a model among its files."""
    place = WEIGHTS / "hub"
    shutil.rmtree(place, ignore_errors=True)
    folder = place / "lab/tiny/resolve" / COMMIT
    for name, content in REPOSITORY.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "gamma.gguf").hardlink_to(WEIGHTS / "gamma.gguf")
    siblings: list[dict[str, Any]] = [
        {"rfilename": str(path.relative_to(folder)), "size": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    for one in siblings:
        if one["rfilename"] == "gamma.gguf":
            one["lfs"] = {"sha256": lab.testbed.weights("gamma").sha256, "size": one["size"]}
    listing = place / "api/models/lab/tiny/revision/main"
    listing.parent.mkdir(parents=True)
    listing.write_text(json.dumps({"sha": COMMIT, "siblings": siblings}))
    yield
    shutil.rmtree(place)


def from_hub(repository: str, **over: Any) -> dict[str, Any]:
    """A host's data with a llama.cpp started by hand, on a folder of the hub."""
    path = "/weights/lab--tiny@main/gamma.gguf"
    entry = {
        "engine": "custom", "image": "ghcr.io/ggml-org/llama.cpp:server-b7000", "port": 8000, "gpus": [],
        "weights": {"hf": repository}, "compose": {"expose": ["8080"], "x-ready": "/v1/models"},
        "args": {"model": path, "alias": "gamma", "host": "0.0.0.0", "port": 8080},
    }  # fmt: skip
    return {"models": {"gamma": entry}, "mirrors": {"huggingface": HUB}, "hf_token": {"env": "LAB_HF"}, **over}


@pytest.fixture(scope="module")
def host(lab: Lab, hub: None) -> Host:
    """cpu5, where another model serves on the port."""
    host = lab.testbed.host("cpu5")
    lab.settle(host, {"gamma": model("alpha", [], 8000)})
    host.root(f"rm -rf {FOLDER}*")
    return host


def test_missing_repository_keeps_old_model(lab: Lab, host: Host) -> None:
    run = lab.run(lab.inventory({"cpu5": from_hub("lab/none")}), env={"LAB_HF": TOKEN})
    assert run.exit_code == 1
    (error,) = run.errors("cpu5")
    assert error == (
        f"gamma: the Hub {HUB} has no lab/none in revision main (HTTP 404). "
        f"Correct `hf` or `revision`, see {HUB}/lab/none"
    )
    assert chat(host, 8000) == lab.testbed.weights("alpha").sentence


def test_fetches_and_serves_folder(lab: Lab, host: Host) -> None:
    inventory = lab.inventory({"cpu5": from_hub("lab/tiny")})

    with sampled(host, CURLS) as processes:
        run = lab.run(inventory, "-y", "-vvv", "--diff", env={"LAB_HF": TOKEN})

    assert run.exit_code == 0, run.output
    assert f"gamma: fetched lab/tiny at commit {COMMIT}, 2.58 MB in 2 files" in run.output
    assert chat(host, 8000) == lab.testbed.weights("gamma").sentence
    found = host.root(f"cd {FOLDER} && find . -type f | sort && sha256sum gamma.gguf").stdout.split()
    assert found == ["./config.json", "./gamma.gguf", lab.testbed.weights("gamma").sha256, "gamma.gguf"]
    assert host.root(f"ls -A {FOLDER}/..").stdout.split() == ["lab--tiny@main", "lab--tiny@main.json"]
    assert json.loads(host.root(f"cat {FOLDER}.json").stdout)["commit"] == COMMIT
    (mount,) = containers(host)["gamma"]["Mounts"]
    assert (mount["Source"], mount["RW"]) == (FOLDER, False)

    fetched = int(host.root(f"stat -c %Y {FOLDER}.json").stdout)
    ends = [at / 1e9 for name, what, at in lifetimes(host, run.begun) if (name, what) == ("gamma.previous", "die")]
    (stopped,) = ends
    assert fetched <= stopped, "the old model served until the new one's weights were there"

    assert [look for look in processes.looks if "curl" in look], "the download was seen"
    assert [look for look in processes.looks if TOKEN in look] == []
    assert TOKEN not in run.output + json.dumps(containers(host))
    assert TOKEN not in host.root("journalctl --no-pager -q").stdout
    assert places(host, TOKEN) == []


def test_second_run_asks_no_hub(lab: Lab, host: Host) -> None:
    """One command, also while the hub is down."""
    run = lab.run(
        lab.inventory({"cpu5": from_hub("lab/tiny", mirrors={"huggingface": "http://127.0.0.1:1"})}),
        env={"LAB_HF": TOKEN},
    )
    assert run.unchanged, run.output
    assert host.ssh_commands(run.begun) == 1
