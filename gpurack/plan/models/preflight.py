"""Find what blocks a change of a model, or is wrong with a running one. Each is a sentence. Pure."""

import ipaddress
from collections.abc import Mapping, Sequence

from gpurack.engines.container import Accelerator
from gpurack.facts.model import Container, HostFacts, Listener
from gpurack.plan.models import compose, weights
from gpurack.plan.models.compatibility import incompatibility
from gpurack.plan.models.desired import DesiredService
from gpurack.plan.models.diff import Action, Change, holdings, replaced
from gpurack.plan.models.health import Health, health
from gpurack.plan.models.ledger import slots_of
from gpurack.plan.models.memory import refusal
from gpurack.plan.system import gpu_access
from gpurack.shell import sh
from gpurack.spec.host import Host
from gpurack.spec.model import Model


def obstacle(desired: DesiredService, spec: Host, facts: HostFacts, change: Change) -> str | None:
    """Return why nothing may be done to this model; None if it may."""
    name, model = desired.name, desired.entry
    if model.gpus and facts.has_nvidia and (error := gpu_access.refused(spec, facts)):
        return error
    stranger = next(
        (c for c in facts.containers if (c.name, c.user) == (name, model.dockerd) and not facts.is_ours(c)), None
    )
    if stranger and stranger != replaced(desired, facts):
        return (
            f"a container named `{name}` already exists and is not managed by gpurack ({stranger.status}, image "
            f"{stranger.image[7:19]}). Adopt it with `replaces: {name}`, or rename the model."
        )
    holder = port_holder(desired, facts) if change.action != Action.KEEP else None
    if holder:
        return f"port {model.port} is already in use by {holder}. This model was not changed. {port_hint(holder)}"
    closed = facts.users[model.dockerd].unreadable if model.dockerd in facts.users else frozenset()
    if unread := [path for _, path in desired.weights if path in closed]:
        return f"weights {unread[0]} are not readable by {model.user}, who runs this model. Check: ls -l {unread[0]}"
    lying = [path for one, path in desired.weights if isinstance(one, str)]
    if change.action != Action.KEEP and (missing := [path for path in lying if facts.weights.get(path) is None]):
        return weights.irregular(missing[0], facts) or (
            f'weights {missing[0]} do not exist on the host. Copy them there, or set {{"url": …, "sha256": …}}.'
        )
    if change.action == Action.KEEP:
        return unhealthy(desired, facts)
    return unreadable(desired, facts)


READABLE = {"container_file_t", "container_ro_file_t", "container_share_t", "usr_t", "nfs_t", "cifs_t", "fusefs_t"}
"""SELinux types that a confined container may read. (A boolean of SELinux allows network file systems.)"""


def unreadable(desired: DesiredService, facts: HostFacts) -> str | None:
    """Return why a container that Docker confines by SELinux cannot read the weights; None if it can.

    They are the admin's and are not relabelled, as Compose's `z` would do. The message names the label to set.
    """
    path = desired.weights_path
    label = facts.labels.get(path) if path else None
    confined = any(option.startswith("name=selinux") for option in facts.docker.get("SecurityOptions") or ())
    options = desired.entry.compose.get("security_opt") or ()
    if not confined or label is None or label in READABLE or any("label" in str(option) for option in options):
        return None
    return (
        f"SELinux does not allow containers to read the weights {path} (label {label}). "
        f"Relabel them: semanage fcontext -a -t container_ro_file_t '{path}(/.*)?' && "
        f'restorecon -R {path}; or set compose: {{"security_opt": ["label=disable"]}} for this model.'
    )


def unfit(model: Model, hardware: Accelerator, container: Container | None, facts: HostFacts) -> str | None:
    """Return why a model cannot compute on this hardware; None if it can.

    It may not open it, or the engine's images do not run there with this driver. A running model (container) is known
    to run.
    """
    running = bool(container and container.running)
    found = incompatibility(model, hardware, facts.driver.kernel or None, running)
    return found[1] if found else None


def too_large(desired: DesiredService, facts: HostFacts, change: Change) -> str | None:
    """Return why a model that would get a new container does not fit on its GPUs; None if it does.

    A running model is known to fit.
    """
    if change.action not in (Action.CREATE, Action.RECREATE):
        return None
    header = facts.headers.get(desired.weights_path)
    error = refusal(desired.entry, header, slots_of(desired.uuids, facts))
    return f"{error} This model was not changed." if error else None


def unhealthy(desired: DesiredService, facts: HostFacts) -> str | None:
    """Return why a running model does not answer as it should; None if it does."""
    name, docker = desired.name, compose.docker_command(desired.user)
    probe = facts.probes.get((desired.user, name))
    if probe is None:
        return None
    logs = sh("{} logs --tail 20 {}", docker, name)
    match health(name, desired.entry, facts):
        case Health.READY:
            return None
        case Health.RENAMED:
            again = sh("{} rm -f {}", docker, name)
            answer = f'something else answers there, not "{desired.answers_as}": {probe.body[:200]}'
            return f"{answer}. Fix: {again}, then run again."
        case _ if probe.status == 0:
            return (
                f"it runs but does not answer (GET {desired.url}: no response in 5 s). "
                f"Check: {logs}. Fix: {sh('{} restart {}', docker, name)}, then run again."
            )
    return f"it answers HTTP {probe.status}: {probe.body[:200]}. Check: {logs}."


def port_holder(desired: DesiredService, facts: HostFacts) -> str | None:
    """Return what listens on the port of this model, except our own containers."""
    model = desired.entry
    for listener in facts.listeners:
        if listener.port != model.port or not addresses_overlap(desired.address, listener.address):
            continue
        foreign = next(
            (
                container
                for container in facts.containers
                if container.running and not facts.is_ours(container) and could_hold(container, listener)
                for ip, port in container.ports
                if port == model.port and addresses_overlap(desired.address, ip or "0.0.0.0")
            ),
            None,
        )
        if foreign and foreign.name == model.replaces and foreign.user in (model.dockerd, ""):
            return None
        if foreign:
            return f"container `{foreign.name}`, which gpurack does not manage"
        # docker-proxy listens for Docker, rootlesskit for rootless Docker
        ours = {port for one in facts.ours.values() if could_hold(one, listener) for _, port in one.ports}
        if model.port not in ours or not listener.owner.startswith(("docker-proxy", "rootlesskit")):
            return f"process {listener.owner or '(unknown)'}"
    return None


def could_hold(container: Container, listener: Listener) -> bool:
    """Can a listener belong to this container?

    A user's daemon may claim any port, so root must have seen that the listener is that user's.
    """
    return not container.user or listener.owner.endswith(f", user {container.user})")


def port_hint(holder: str) -> str:
    """Return how to free a port."""
    if holder.startswith("container"):
        container = holder.split("`")[1]
        return f"Adopt it with `replaces: {container}`, stop it, or use another port."
    return "Stop it or use another port."


def addresses_overlap(one: str, other: str) -> bool:
    """Do two listeners on these addresses conflict on the same port?

    >>> addresses_overlap("0.0.0.0", "10.0.0.7"), addresses_overlap("127.0.0.1", "10.0.0.7")
    (True, False)
    """
    if one == other or {one, other} & {"0.0.0.0", "::", "*"}:
        return True
    try:
        return ipaddress.ip_address(one) == ipaddress.ip_address(other)
    except ValueError:
        return False


def mismatch(facts: HostFacts) -> str:
    """Return the error for a driver and library of different versions."""
    return (
        f"the NVIDIA kernel module is {facts.driver.kernel}, but nvidia-smi says: {facts.driver.message}. Running "
        "models keep running but could not restart, so no model on a GPU was changed. Reboot the host, then run again."
    )


def blocked(
    changes: Sequence[Change],
    errors: Mapping[str, str],
    desired: Mapping[str, DesiredService],
    spec: Host,
    facts: HostFacts,
) -> dict[str, str]:
    """Return model → error, for models that need a GPU or port of a model that has to stay unchanged.

    The container of that model still runs. So a swap of two models happens completely or not at all.
    """
    found: dict[str, str] = {}
    pending = [change for change in changes if change.action in (Action.CREATE, Action.RECREATE, Action.START)]
    there = {name: facts.container(name, entry.dockerd) for name, entry in spec.entries.items()}
    stuck = [name for name in errors if there.get(name)]
    while stuck:
        other = stuck.pop()
        theirs = holdings(there[other])
        for change in pending:
            name = change.model
            taken = theirs & (holdings(there[name], desired[name]) - holdings(there[name]))
            if spec.entries[name].vram and spec.entries[other].vram:
                taken = {thing for thing in taken if thing.startswith("port ")}
            if taken and name not in found:
                things = ", ".join(sorted(gpu_label(thing, facts) for thing in taken))
                found[name] = (
                    f"{things} is still in use by {other}, which could not be changed. "
                    "This model was not changed either."
                )
                stuck += [name] if there[name] else []
    return found


def gpu_label(holding: str, facts: HostFacts) -> str:
    """Return `GPU 0` for `gpu GPU-6f1c…`; other names unchanged."""
    indices = {f"gpu {gpu.uuid}": f"GPU {gpu.index}" for gpu in facts.gpus}
    return indices.get(holding, holding)
