"""A second run: nothing changes, it takes one remote command per host, and every model was asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import Lab, chat, identities, standard
from tests.acceptance.evidence import dockerd_pid, files_touched
from tests.acceptance.verification import is_right
from tests.testbed import Host
from tests.testbed.gguf_models import SENTENCES

HOSTS = ("gpu1", "cpu1")


@pytest.fixture(scope="module", autouse=True)
def provisioned(lab: Lab) -> None:
    """Both hosts with the standard inventory."""
    run = lab.run(lab.inventory(standard()))
    assert run.exit_code == 0, run.output
    is_right(lab)


@pytest.mark.parametrize(
    ("options", "stdin"), [(("-y",), ""), ((), "\n")], ids=["with -y", "without -y, Enter at the prompt"]
)
def test_second_run_is_one_command_per_host_and_changes_nothing(lab: Lab, options: tuple[str, ...], stdin: str) -> None:
    """No change reported, no file newer, the same containers and the same dockerd; sshd logged one command each."""
    hosts = [lab.testbed.host(name) for name in HOSTS]
    before = {host.name: (identities(host), dockerd_pid(host)) for host in hosts}
    inventory = lab.inventory(standard())

    run = lab.run(inventory, *options, stdin=stdin, yes=False)

    assert run.unchanged, run.output
    assert "4 of 4 models answered, nothing changed" in run.output
    for host in hosts:
        assert host.ssh_commands(run.begun) == 1, f"remote commands on {host.name}"
        assert files_touched(host, run.begun) == []
        assert (identities(host), dockerd_pid(host)) == before[host.name]


@pytest.fixture
def hung(gpu1: Host) -> Iterator[str]:
    """The name of a model whose process is stopped: it accepts connections and never answers."""
    pid = gpu1.root("docker inspect --format '{{.State.Pid}}' beta").stdout.strip()
    gpu1.root(f"kill -STOP {pid}")
    yield "beta"
    gpu1.root(f"kill -CONT {pid}", check=False)


@pytest.mark.parametrize(("options", "stdin"), [(("-y",), ""), ((), "\n")], ids=["with -y", "without -y"])
def test_hanging_model_is_not_unchanged(lab: Lab, gpu1: Host, hung: str, options: tuple[str, ...], stdin: str) -> None:
    """Its container runs normally; only a request shows that it hangs. The others are left alone."""
    before = identities(gpu1)

    run = lab.run(lab.inventory(standard()), *options, stdin=stdin, yes=False)

    assert run.exit_code == 1, run.output
    assert not run.traceback, run.output
    assert any("error" in line and f"{hung}: it runs but does not answer" in line for line in run.lines("gpu1"))
    row = next(line for line in run.output.splitlines() if line.startswith(f"gpu1  {hung}"))
    assert "FAILED" in row
    assert "3 of 4 models answered" in run.output
    assert identities(gpu1) == before


def test_nothing_changes_after_it_answers_again(lab: Lab, gpu1: Host) -> None:
    """A model that hung and then continues needs no repair."""
    assert chat(gpu1, 8001) == SENTENCES["beta"]
    run = lab.run(lab.inventory(standard()))
    assert run.unchanged, run.output
