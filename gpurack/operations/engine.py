"""The operations up to a Docker that can give cards to containers. Each is one row of pyinfra's results."""

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import operation
from pyinfra.api.command import PyinfraCommand

from gpurack.operations.host import carry_out_plan, others_unharmed, unattended
from gpurack.plan.daemon_json import plan_daemon_json
from gpurack.plan.docker import MISSING, is_installed, plan_docker
from gpurack.plan.nvidia_toolkit import plan_toolkit
from gpurack.plan.rootless import plan_rootless
from gpurack.plan.steps import Plan
from gpurack.spec.host import Host
from gpurack.state.snapshot import look


@operation()
@others_unharmed("Docker")
def docker(wanted: Host) -> Generator[PyinfraCommand, None, None]:
    """
    Docker as the inventory has it: repository, packages, version, hold, running and enabled.

    + wanted: the host's spec, from `gpurack.spec.fleet.read_fleet`

    **Example:**

    .. code:: python

        engine.docker(name="Docker", wanted=read_fleet(inventory)[host.name])
    """
    state = look(host, wanted)
    if state.blind:
        yield from carry_out_plan("Docker", Plan(errors=(state.blind,)))
        return
    yield from carry_out_plan("Docker", plan_docker(wanted, state, unattended(host)))


@operation()
@others_unharmed("NVIDIA Container Toolkit")
def nvidia_toolkit(wanted: Host, models_follow: bool = False) -> Generator[PyinfraCommand, None, None]:
    """
    The NVIDIA Container Toolkit's four packages at one version, and CDI specs. Nothing on a host without cards.

    + wanted: the host's spec
    + models_follow: the models come next and say themselves when there is no driver for them
    """
    state = look(host, wanted)
    plan = Plan(errors=(state.blind,)) if state.blind else plan_toolkit(wanted, state, models_follow)
    yield from carry_out_plan("NVIDIA Container Toolkit", plan)


@operation()
@others_unharmed("daemon.json")
def daemon_json(wanted: Host, toolkit: bool = True) -> Generator[PyinfraCommand, None, None]:
    """
    The inventory's keys in daemon.json, every other key kept, and dockerd reloaded or restarted to take them up.

    + wanted: the host's spec
    + toolkit: does the same run bring the NVIDIA Container Toolkit to hosts with cards?
    """
    state = look(host, wanted)
    if state.blind or (host.state.is_executing and not is_installed(state)):
        yield from carry_out_plan("daemon.json", Plan(errors=(state.blind or MISSING,)))
        return
    yield from carry_out_plan("daemon.json", plan_daemon_json(wanted, state, unattended(host), toolkit))


@operation()
@others_unharmed("Rootless Docker")
def rootless(wanted: Host, models_follow: bool = False) -> Generator[PyinfraCommand, None, None]:
    """
    A rootless Docker for each user of the inventory, beside the host's own: what it needs of the host, its unit, its
    daemon.json, and its restart last.

    + wanted: the host's spec
    + models_follow: the models come next and say themselves whose Docker is not right
    """
    state = look(host, wanted)
    if state.blind or (host.state.is_executing and not is_installed(state)):
        yield from carry_out_plan("Rootless Docker", Plan(errors=(state.blind or MISSING,)))
        return
    yield from carry_out_plan("Rootless Docker", plan_rootless(wanted, state, unattended(host), models_follow))
