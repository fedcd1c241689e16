"""The operations up to a Docker that can give GPUs to containers. Each is one row of pyinfra's results."""

from collections.abc import Generator, Iterator

from pyinfra import host
from pyinfra.api import operation
from pyinfra.api.command import PyinfraCommand

from gpurack.operations.carry_out import carry_out_plan, fail_only_this_host, unattended
from gpurack.operations.run_state import snapshot
from gpurack.plan.host import DAEMON_JSON, DOCKER, ROOTLESS, TOOLKIT, SetUp
from gpurack.plan.run import Run
from gpurack.plan.steps import Plan
from gpurack.plan.system.docker import is_installed
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem


@operation()
@fail_only_this_host(DOCKER.name)
def docker(spec: Host) -> Generator[PyinfraCommand, None, None]:
    """
    Install Docker as the inventory says (repository, packages, version, hold), start and enable it.

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
    Install the NVIDIA Container Toolkit's four packages at one version, and create CDI specs.

    Nothing is done on a host without GPUs.

    + spec: the host's spec
    + models_follow: the models come next and report a missing driver themselves
    """
    yield from set_up(TOOLKIT, spec, Run(unattended(host), models=models_follow))


@operation()
@fail_only_this_host(DAEMON_JSON.name)
def daemon_json(spec: Host, toolkit: bool = True) -> Generator[PyinfraCommand, None, None]:
    """
    Merge the inventory's keys into daemon.json, and reload or restart dockerd if it must read them.

    Every other key stays.

    + spec: the host's spec
    + toolkit: does the same run install the NVIDIA Container Toolkit on hosts with GPUs?
    """
    yield from set_up(DAEMON_JSON, spec, Run(unattended(host), toolkit))


@operation()
@fail_only_this_host(ROOTLESS.name)
def rootless(spec: Host, models_follow: bool = False) -> Generator[PyinfraCommand, None, None]:
    """
    Set up a rootless Docker for each user of the inventory, beside the host's own.

    First what it needs on the host, then its unit and daemon.json, and last its restart.

    + spec: the host's spec
    + models_follow: the models come next and report users without a working Docker themselves
    """
    yield from set_up(ROOTLESS, spec, Run(unattended(host), models=models_follow))


def set_up(stage: SetUp, spec: Host, run: Run) -> Iterator[PyinfraCommand]:
    """Yield the commands of a stage."""
    facts = snapshot(host, spec)
    if facts.blind or (stage.needs_docker and host.state.is_executing and not is_installed(facts)):
        yield from carry_out_plan(stage.name, Plan(errors=(facts.blind or Problem.of("docker-missing"),)))
        return
    yield from carry_out_plan(stage.name, stage.plan(spec, facts, run))
