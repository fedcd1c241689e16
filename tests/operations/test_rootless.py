"""The operation "Rootless Docker" when a command for one user fails: the others are served, and the user's models
report it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.connectors.util import CommandOutput, OutputLine
from pyinfra.context import ctx_host

from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Kernel, Unit, User
from gpurack.operations import host_setup
from gpurack.operations import models as models_operation
from gpurack.operations.carry_out import carry_out_plan
from gpurack.operations.commands import Refusal
from gpurack.operations.run_state import host_run
from gpurack.plan.steps import Plan, Shell
from gpurack.shell import sh
from tests.given import host_state, said, spec
from tests.operations.test_operations import FakeHost

WANTED = spec(
    {
        "docker": {"source": "keep", "rootless": {"ada": {}, "bob": {}, "eve": {}}},
        "models": {"beta": {"port": 8001, "user": "ada"}, "gamma": {"port": 8002, "user": "bob"}},
    }
)
WHY = ["error rootless Docker could not be set up for {}. The tool says:", "    | [ERROR] no"]


@dataclass
class Host(FakeHost):
    """A host on which commands that name one of the homes in `broken` fail."""

    broken: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ran: list[str] = []

    def run_shell_command(self, command: Any, **arguments: Any) -> tuple[bool, CommandOutput]:
        self.ran.append(f"{command}\n{arguments.get('_stdin')}")
        name = next((name for name in self.broken if f"HOME=/home/{name} " in self.ran[-1]), None)
        lines = [line.format(name) for line in WHY] if name else []
        return not name, CommandOutput([OutputLine("stderr", line) for line in lines])


def bare() -> HostFacts:
    """Accounts without rootless Docker; eve is missing."""
    subordinate = tuple(f"{name}:{start}:65536" for name, start in (("ada", 165536), ("bob", 231072)))
    users = {
        name: User(
            uid, uid, f"/home/{name}", linger=True, manager=True, folder=("711", 0),
            acl=f"user::rwx user:{uid}:r-x group::--- mask::r-x other::---",
        )
        for uid, name in ((1001, "ada"), (1002, "bob"))
    }  # fmt: skip
    return replace(
        host_state(), users=users, kernel=Kernel(subuids=subordinate, subgids=subordinate), weights={"/w/a.gguf": 1}
    )


def execute(host: Host, commands: Any) -> list[Any]:
    """Like pyinfra: run each command before the next one is requested, and stop at the first failure."""
    state, done = SimpleNamespace(print_input=False), []
    for command in commands:
        done.append(command)
        if isinstance(command, Refusal) or not command.execute(state, host, dict(command.connector_arguments))[0]:
            break
    return done


@pytest.mark.parametrize("models_follow", [True, False])
def test_failed_command_for_user_skips_that_users_rest(models_follow: bool) -> None:
    host = Host(bare(), executing=True, unattended=True, broken=("ada",))
    with ctx_host.use(host):
        done = execute(host, host_setup.rootless._inner(spec=WANTED, models_follow=models_follow))
    assert [next(name for name in ("ada", "bob") if f"HOME=/home/{name} " in ran) for ran in host.ran] == [
        "ada", "bob", "bob",
    ]  # fmt: skip
    sentence = "rootless Docker could not be set up for ada. The tool says:\n    | [ERROR] no"
    refusals = [command for command in done if isinstance(command, Refusal)]
    if not models_follow:
        (refusal,) = refusals
        assert refusal.failures[0].what.startswith("the user eve does not exist on the host.")
        assert said(refusal.failures[1:]) == (sentence,)
        return
    assert not refusals
    served = replace(bare().users["bob"], docker={"ServerVersion": "28.5.2"}, unit=Unit("loaded", "active", "enabled"))
    state = replace(bare(), users={**bare().users, "bob": served})
    run = host_run(host)  # type: ignore[arg-type]
    run.snapshot, run.outdated = state, False
    with ctx_host.use(host):
        *_, job = models_operation.models._inner(spec=WANTED)
    assert isinstance(job, models_operation.RunnerCall)
    assert [change.model for change in job.plan.changes] == ["gamma"]
    assert said(job.plan.errors) == {"beta": sentence, "docker.rootless.eve": run.users_down["eve"].what}
    assert job.plan.errors["beta"].path == "models.beta"


def test_failed_command_for_host_ends_operation() -> None:
    host = Host(bare(), executing=True, broken=("ada",))
    with ctx_host.use(host):
        commands = carry_out_plan("x", Plan((Shell("a", sh("HOME=/home/ada x")), Shell("b", sh("true")))))
        assert len(execute(host, commands)) == 1
