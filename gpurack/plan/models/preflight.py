"""Find what blocks a change of a model, or is wrong with a running one. Each is a sentence. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Container, Listener
from gpurack.listening import overlap
from gpurack.plan.models import compose, ledger, weights
from gpurack.plan.models.addresses import probe_url
from gpurack.plan.models.desired import DesiredService
from gpurack.plan.models.diff import Action, Change, replaced
from gpurack.plan.models.health import Health, failing, health
from gpurack.plan.models.holdings import held_by, names_of, needed_by
from gpurack.plan.models.memory import refusal
from gpurack.plan.models.observed import Observed
from gpurack.plan.models.slots import broken_gpu, host_slots, slot_of, slots_of
from gpurack.plan.system import gpu_access
from gpurack.plan.system.cdi_specs import cdi_obstacle
from gpurack.plan.system.gpu_host import fabric
from gpurack.plan.system.restart import reboot_stops, stuck_ports
from gpurack.shell import sh
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem


def obstacle(desired: DesiredService, facts: HostFacts, change: Change) -> Problem | None:
    """Return why nothing may be done to this model; None if it may."""
    name, spec, model, at = desired.name, desired.spec, desired.entry, desired.path
    if model.gpus and facts.has_nvidia and (error := gpu_access.refused(spec, facts, at)):
        return error
    changes = change.action != Action.KEEP
    if changes and model.gpus and (problem := gpu_obstacle(desired.uuids, spec, facts)):
        return replace(problem, path=at)
    stranger = next(
        (c for c in facts.containers if (c.name, c.user) == (name, model.dockerd) and not facts.is_ours(c)), None
    )
    if stranger and stranger != replaced(desired, facts):
        which = f" ({stranger.status}, image {stranger.image[7:19]})"
        hint = f"Adopt it with `replaces: {name}`, or rename the model."
        return Problem.of("container-name-taken", path=at, name=name, which=which, hint=hint)
    aside = name + paths.PREVIOUS
    if change.action == Action.RECREATE and any(
        (other.name, other.user) == (aside, desired.user) and other.id not in facts.generations
        for other in facts.containers
    ):
        hint = f"Rename it: the old container has this name while `{name}` is changed."
        return Problem.of("container-name-taken", path=at, name=aside, which="", hint=hint)
    if changes and (in_use := port_in_use(desired, facts)):
        return in_use
    closed = facts.users[model.dockerd].unreadable if model.dockerd in facts.users else frozenset()
    if unread := [path for _, path in desired.weights if path in closed]:
        return Problem.of("weights-not-readable", path=at, file=unread[0], user=model.user)
    lying = [path for one, path in desired.weights if isinstance(one, str)]
    if changes and (missing := [path for path in lying if facts.weights.get(path) is None]):
        return weights.irregular(missing[0], facts, at) or Problem.of("weights-not-on-host", path=at, file=missing[0])
    if change.action == Action.KEEP:
        return unhealthy(desired.observed(facts))
    return unreadable(desired, facts)


def gpu_obstacle(uuids: Sequence[str], spec: Host, facts: HostFacts) -> Problem | None:
    """Return why nothing that starts could compute on these GPUs; None if it could, or if that is unknown."""
    if broken := next((slot for slot in slots_of(uuids, facts) if slot.fault), None):
        return broken_gpu(broken, host_slots(spec, facts))
    if problem := fabric(facts, certain=True):
        return problem
    by_cdi = facts.has_nvidia and gpu_access.access(spec, facts) == "cdi"
    return cdi_obstacle(uuids, facts) if by_cdi else None


READABLE = {"container_file_t", "container_ro_file_t", "container_share_t", "usr_t", "nfs_t", "cifs_t", "fusefs_t"}
"""SELinux types that a confined container may read. (A boolean of SELinux allows network file systems.)"""


def unreadable(desired: DesiredService, facts: HostFacts) -> Problem | None:
    """Return why a container that Docker confines by SELinux cannot read the weights; None if it can.

    They are the admin's and are not relabelled, as Compose's `z` would do. The message names the label to set.
    """
    path = desired.weights_path
    label = facts.labels.get(path) if path else None
    confined = any(option.startswith("name=selinux") for option in facts.docker.get("SecurityOptions") or ())
    options = desired.entry.compose.get("security_opt") or ()
    if not confined or label is None or label in READABLE or any("label" in str(option) for option in options):
        return None
    return Problem.of("weights-label", path=desired.path, file=path, label=label)


def too_large(desired: DesiredService, facts: HostFacts, change: Change) -> Problem | None:
    """Return why a model that would get a new container does not fit on its GPUs; None if it does.

    A running model is known to fit.
    """
    if change.action not in (Action.CREATE, Action.RECREATE):
        return None
    header = facts.headers.get(desired.weights_path)
    error = refusal(desired.entry, header, slots_of(desired.uuids, facts))
    what = f"{error} This model was not changed."
    return Problem.of("model-too-large", path=desired.path, what=what) if error else None


def unhealthy(one: Observed) -> Problem | None:
    """Return why a running model does not answer as it should; None if it does."""
    name, entry, at = one.name, one.entry, one.path
    docker, url = compose.docker_command(entry.dockerd), probe_url(one)
    probe = one.probe
    if probe is None:
        return None
    logs = sh("{} logs --tail 20 {}", docker, name)
    match health(one):
        case Health.READY:
            return None
        case Health.RENAMED:
            again = sh("{} rm -f {}", docker, name)
            told = {"name": str(one.answers_as), "body": probe.body[:200], "command": again, "url": url}
            return Problem.of("wrong-model-answers", path=at, **told)
        case Health.FAILED:
            return failing(one)
        case Health.UNPUBLISHED:
            return Problem.of("port-not-published", path=at, port=entry.port, command=sh("{} restart {}", docker, name))
        case _ if probe.status == 0:
            again = sh("{} restart {}", docker, name)
            return Problem.of("model-silent", path=at, url=url, logs=logs, command=again)
    return Problem.of("model-failing", path=at, status=probe.status, body=probe.body[:200], logs=logs)


def port_in_use(desired: DesiredService, facts: HostFacts) -> Problem | None:
    """Return the error if something other than our own containers listens on the port of this model."""
    model, own = desired.entry, facts.container(desired.name, desired.user)
    restarts = own is not None and own.status == "restarting" and ledger.label(own.labels).get("port") == model.port
    stuck = stuck_ports(facts)  # Docker is restarted before
    for listener in facts.listeners:
        if listener.port != model.port or not overlap(desired.address, listener.address) or listener in stuck:
            continue
        if restarts and not listener.owner:  # its docker-proxy ended while the snapshot was taken
            continue
        foreign = next(
            (
                container
                for container in facts.containers
                if container.running and not facts.is_ours(container) and could_hold(container, listener)
                for ip, port in container.ports
                if port == model.port and overlap(desired.address, ip or "0.0.0.0")
            ),
            None,
        )
        if foreign and foreign.name == model.replaces and foreign.user in (model.dockerd, ""):
            return None
        if foreign:
            holder = f"container `{foreign.name}`, which gpurack does not manage"
            hint = f"Adopt it with `replaces: {foreign.name}`, stop it, or use another port."
            return Problem.of("port-in-use", path=desired.path, port=model.port, holder=holder, hint=hint)
        # docker-proxy listens for Docker, dockerd itself with "userland-proxy": false, rootlesskit for rootless Docker
        ours = any(
            port == model.port and overlap(listener.address, ip or "0.0.0.0")
            for one in facts.containers
            if facts.is_ours(one) and could_hold(one, listener)
            for ip, port in one.ports
        )
        of_docker = listener.owner.startswith(("docker-proxy", "dockerd", "rootlesskit"))
        if not ours or (listener.owner and not of_docker):  # without an owner: it came while the snapshot was taken
            holder, hint = f"process {listener.owner or '(unknown)'}", "Stop it or use another port."
            return Problem.of("port-in-use", path=desired.path, port=model.port, holder=holder, hint=hint)
    return None


def could_hold(container: Container, listener: Listener) -> bool:
    """Can a listener belong to this container?

    A user's daemon may claim any port, so root must have seen that the listener is that user's.
    """
    return not container.user or listener.owner.endswith(f", user {container.user})")


def mismatch(facts: HostFacts) -> Problem:
    """Return the error for a driver and library of different versions."""
    also = reboot_stops(facts)
    told = {"kernel": facts.driver.kernel, "message": facts.driver.message, "also": f" {also}" if also else ""}
    return Problem.of("driver-mismatch", path="driver", **told)


def blocked(
    changes: Sequence[Change],
    errors: Mapping[str, Problem],
    desired: Mapping[str, DesiredService],
    entries: Sequence[Observed],
    facts: HostFacts,
) -> dict[str, Problem]:
    """Return model → error, for models that need a GPU or port of a model that has to stay unchanged.

    The container of that model still runs, with the share of its GPU that it has. So a swap of two models happens
    completely or not at all. entries: all of the host.
    """
    found: dict[str, Problem] = {}
    pending = [change for change in changes if change.action in (Action.CREATE, Action.RECREATE, Action.START)]
    there = {one.name: one.container for one in entries}
    stuck = [name for name in errors if there.get(name)]
    while stuck:
        other = stuck.pop()
        theirs = held_by(there[other], facts)
        for change in pending:
            name = change.model
            if name in found:
                continue
            one, mine = desired[name], held_by(there[name], facts)
            if not ledger.kept_share(one.observed(facts)):
                mine = mine.without_gpus(mine.gpus)
            moving = [desired[each.model] for each in pending if each.model not in found]
            new = (needed_by(one) - mine).without_gpus(with_room(moving, there, facts))
            if taken := new.clashes(theirs):
                things = ", ".join(sorted(gpu_label(thing, facts) for thing in taken))
                found[name] = Problem.of("blocked-by-other", path=one.path, things=things, other=other)
                stuck += [name] if there[name] else []
    return found


def with_room(moving: Sequence[DesiredService], there: Mapping[str, Container | None], facts: HostFacts) -> list[str]:
    """Return the GPUs on which what moves fits beside what stays: their UUIDs and render nodes.

    moving: what gets a new container. there: entry → its container.
    """
    staying = {name: one for name, one in there.items() if one} | dict.fromkeys(one.name for one in moving)
    found: list[str] = []
    for gpu in facts.gpus:
        shares = [one.entry.vram for one in moving if gpu.uuid in one.uuids]
        on_it = [one for one in staying.values() if one and gpu.uuid in ledger.uuids_in(ledger.label(one.labels))]
        shares += map(ledger.share_of, on_it)
        if None not in shares and not ledger.overfull(slot_of(gpu, facts), shares):
            found += names_of(gpu)
    return found


def gpu_label(holding: str, facts: HostFacts) -> str:
    """Return `GPU 0` for `gpu GPU-6f1c…`; other names unchanged."""
    indices = {f"gpu {gpu.uuid}": f"GPU {gpu.index}" for gpu in facts.gpus}
    return indices.get(holding, holding)
