"""An invalid inventory: all errors are listed at once, and no command runs on any host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, Run, model
from tests.testbed import Host
from tests.testbed.inventory import weights

ONE = "1 error in the inventory; nothing was done on any host"


def refused(lab: Lab, host: Host, models: dict[str, Any], over: dict[str, Any] | None = None, **data: Any) -> Run:
    """Run an inventory of one host that must be refused before anything happens there."""
    run = lab.run(lab.inventory({host.name: {"models": models, **data}}, over))
    assert run.exit_code == 1, run.output
    assert not run.traceback, run.output
    assert host.ssh_commands(run.begun) == 0, "a command ran on the host"
    return run


def test_lists_all_errors_with_host_path_and_hint(lab: Lab, cpu1: Host, gpu1: Host) -> None:
    """One wrong field of one model stops all hosts, because half a lab would be worse than none."""
    inventory = lab.inventory(
        {
            "cpu1": {
                "models": {
                    "alpha": {**model("alpha", [], 8000), "engine": "llamacpp"},
                    "beta": {"wieghts": weights("beta"), "gpus": [], "port": 8001},
                    "gamma": model("gamma", [], 8002),
                    "delta": model("delta", [], 8002),
                }
            },
            "gpu1": {
                "modles": {},
                "models": {
                    "alpha": model("alpha", [0], 8000),
                    "beta": model("beta", [0, 1], 8001),
                    "gamma": {**model("gamma", [], 8003), "gpus": 2},
                    "delta": model("delta", [2], 8004, api_key="sk-literal-in-the-inventory"),
                },
            },
        }
    )
    run = lab.run(inventory)
    assert run.exit_code == 1
    assert not run.traceback, run.output
    for sentence in (
        "errors in the inventory; nothing was done on any host",
        'cpu1 models.alpha.engine: unknown engine "llamacpp". Did you mean "llama.cpp"?',
        'cpu1 models.beta.wieghts: unknown field "wieghts". Did you mean "weights"?',
        "cpu1 models.delta.port: port 8002 is used by both `gamma` and `delta`. Change one of them, for example to ",
        'gpu1 modles: unknown field "modles". Did you mean "models"?',
        "gpu1 models.beta.gpus: GPU 0 is claimed by 2 models: alpha, beta. Choose another GPU",
        "gpu1 models.gamma.gpus: 2 is ambiguous: a number of GPUs, or the GPU of that index. Write [2] for GPU 2.",
        "gpu1 models.delta.api_key: a secret does not belong in an inventory. Say where it is:",
    ):
        assert sentence in run.output, f"{sentence}\n{run.output}"
    assert "sk-literal-in-the-inventory" not in run.output
    assert cpu1.ssh_commands(run.begun) == 0
    assert gpu1.ssh_commands(run.begun) == 0


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"port": 80000}, "models.alpha.port: must be at most 65535, not 80000."),
        ({"port": "8000"}, "models.alpha.port: must be a whole number, not '8000'."),
        ({"args": {"--ctx-size": 1}}, 'models.alpha.args: "--ctx-size" has dashes. Write "ctx-size".'),
        ({"args": {"port": 1}}, "models.alpha.args.port: gpurack sets this itself. Use the field `port`."),
        ({"version": 1.2}, "models.alpha.version: a version must be text, and without quotes this is a number."),
        ({"weights": "alpha.gguf"}, 'models.alpha.weights: "alpha.gguf" is not a path on the host.'),
        (
            {"api_key": {"env": "NOT_SET_ANYWHERE"}},
            "models.alpha.api_key: environment variable NOT_SET_ANYWHERE is not",
        ),
    ],
)
def test_wrong_type_is_named_with_path_and_hint(lab: Lab, cpu1: Host, fields: dict[str, Any], sentence: str) -> None:
    run = refused(lab, cpu1, {"alpha": {**model("alpha", [], 8000), **fields}})
    assert ONE in run.output
    assert f"cpu1 {sentence}" in run.output, run.output


def test_inventory_without_models_is_an_error(lab: Lab, cpu1: Host) -> None:
    """When models are to be deployed."""
    run = refused(lab, cpu1, {})
    assert "no host has any models. Add a `models` map" in run.output
    assert "For Docker and the toolkit alone, call `docker` and `nvidia_toolkit` of gpurack.deploys" in run.output


@pytest.mark.parametrize(
    "text",
    ["", "lab = []\n", "lab = ([], {})\n", 'lab = {"cpu1": {"models": {}}}\n'],
    ids=["empty file", "empty list", "empty group", "a dict, which pyinfra ignores"],
)
def test_inventory_without_hosts_is_an_error(lab: Lab, tmp_path: Path, text: str) -> None:
    """Nothing was deployed, and the exit code says so."""
    inventory = tmp_path / "lab.py"
    inventory.write_text(text)
    run = lab.run(inventory)
    assert run.exit_code != 0, run.output
    assert not run.traceback, run.output
    assert "the inventory has no hosts. Write lab = [" in run.output, run.output
