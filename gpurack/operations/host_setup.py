"""The operations up to a Docker that can give cards to containers. Each is one row of pyinfra's results."""

from collections.abc import Generator, Iterator

from pyinfra import host
from pyinfra.api import operation
from pyinfra.api.command import PyinfraCommand

from gpurack.operations.carry_out import carry_out_plan, fail_only_this_host, unattended
from gpurack.operations.run_state import snapshot
from gpurack.plan.host import DAEMON_JSON, DOCKER, ROOTLESS, TOOLKIT, Run, SetUp
from gpurack.plan.steps import Plan
from gpurack.plan.system.docker import is_installed
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem


@operation()
@fail_only_this_host(DOCKER.name)
def docker(spec: Host) -> Generator[PyinfraCommand, None, None]:
    """
    Docker as the inventory has it: repository, packages, version, hold, running and enabled.

    + spec: the host's spec, from `gpurack.inventory.fleet.read_fleet`

    **Example:**

    .. code:: python

        host_setup.docker(name="Docker", spec=read_fleet(inventory)[host.name])
    """
    yield from set_up(DOCKER, spec, Run(unattended(host)))


@operation()
@fail_only_this_host(TOOLKIT.name)
def nvidia_toolkit(spec: Host, models_follow: bool = False) -> Generator[PyinfraCommand, None, None]:
    """
    The NVIDIA Container Toolkit's four packages at one version, and CDI specs. Nothing on a host without cards.

    + spec: the host's spec
    + models_follow: the models come next and say themselves when there is no driver for them
    """
    yield from set_up(TOOLKIT, spec, Run(unattended(host), models=models_follow))


@operation()
@fail_only_this_host(DAEMON_JSON.name)
def daemon_json(spec: Host, toolkit: bool = True) -> Generator[PyinfraCommand, None, None]:
    """
    The inventory's keys in daemon.json, every other key kept, and dockerd reloaded or restarted to take them up.

    + spec: the host's spec
    + toolkit: does the same run bring the NVIDIA Container Toolkit to hosts with cards?
    """
    yield from set_up(DAEMON_JSON, spec, Run(unattended(host), toolkit))


@operation()
@fail_only_this_host(ROOTLESS.name)
def rootless(spec: Host, models_follow: bool = False) -> Generator[PyinfraCommand, None, None]:
    """
    A rootless Docker for each user of the inventory, beside the host's own: what it needs of the host, its unit, its
    daemon.json, and its restart last.

    + spec: the host's spec
    + models_follow: the models come next and say themselves whose Docker is not right
    """
    yield from set_up(ROOTLESS, spec, Run(unattended(host), models=models_follow))


def set_up(stage: SetUp, spec: Host, run: Run) -> Iterator[PyinfraCommand]:
    """The commands of a stage."""
    facts = snapshot(host, spec)
    if facts.blind or (stage.needs_docker and host.state.is_executing and not is_installed(facts)):
        yield from carry_out_plan(stage.name, Plan(errors=(facts.blind or Problem.of("docker-missing"),)))
        return
    yield from carry_out_plan(stage.name, stage.plan(spec, facts, run))
