"""Compare a container with the inventory: definition, image, state and answer. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from gpurack import paths
from gpurack.facts.model import Container, HostFacts
from gpurack.plan import pins
from gpurack.plan.models import compose, ledger, pulls
from gpurack.plan.models.desired import SALTED, DesiredService, digest
from gpurack.plan.models.health import Health, health

OWN = ("service", "files")
"""Words that gpurack makes of all the others: where they alone differ, it is gpurack that changed."""
LATER = ("config", "upstreams")
"""Words that a label of an older gpurack lacks: what files and variables are made of beside the others."""
ABSENT = object()
"""In the place of a key that is not there; a null in `compose`, which takes a key away, is something else."""


class Action(StrEnum):
    """What a run does to an entry; the runner on the host gets the value. outcome: the table's word once it is done."""

    KEEP = "keep", "unchanged"
    CREATE = "create", "created"
    RECREATE = "recreate", "recreated"
    START = "start", "started"
    WAIT = "wait", "was loading"
    PULL = "pull", "pulled"
    CHECK = "check", "checked"
    REMOVE = "remove", "removed"
    RUN = "run", "ran now"

    outcome: str

    def __new__(cls, value: str, outcome: str) -> Self:
        member = str.__new__(cls, value)
        member._value_, member.outcome = value, outcome
        return member


@dataclass(frozen=True)
class Change:
    """What happens to one model, and why. `keep` has no reason.

    outdated: does its container keep settings of an older gpurack? lines: those of compose.yaml that a container which
    stays was made of; None: it gets this gpurack's, or its own are lost.
    """

    model: str
    action: Action
    reasons: tuple[str, ...] = ()
    outdated: bool = field(default=False, compare=False)
    lines: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    user: str = ""
    """Of a removal: in whose Docker the container is."""

    @property
    def lost(self) -> bool:
        """Does its container keep settings of an older gpurack of which nothing is left but itself?"""
        return self.outdated and self.lines is None

    def __str__(self) -> str:
        return f"{self.action} {self.model}" + (f": {', '.join(self.reasons)}" if self.reasons else "")


def compare(desired: DesiredService, facts: HostFacts, prune: bool = False, renew: bool = False) -> Change:
    """A model against its container: definition, image, state, and what it answered. prune: is an ollama's model that
    is not listed a difference? renew: are gpurack's own settings, where they have changed?"""
    name, words, service = desired.name, desired.definition, desired.service
    container = facts.container(name, desired.user)
    if container is None:
        old = replaced(desired, facts)
        reason = "its container is missing" if name in compose.old_services(facts, desired.user) else "new"
        return Change(name, Action.CREATE, (f"replaces {old.name}" if old and old.running else reason,))
    definition = ledger.label(container.labels)
    if is_respelled(definition, words, tagged(container, desired.reference, facts), container):
        definition = {**definition, "image": words["image"]}
    reasons = differences(definition, words)
    reasons = reasons or moved(desired, facts, container)
    reasons = reasons or published_elsewhere(service, container, follows=desired.entry.bind == "lan")
    outdated = any(definition.get(word) != words.get(word) for word in OWN)
    written = compose.old_services(facts, desired.user).get(name) if outdated else None
    lines = lines_of(desired, container, written)
    if outdated and not reasons:
        reasons = why_renewed(definition, words, lines, service, renew)
        if lines is None and edited(written, service):
            reasons = reasons or [
                "its service in compose.yaml was edited by hand, and an older gpurack made its container"
            ]
    if reasons:
        return Change(name, Action.RECREATE, tuple(reasons))
    change = of_same_definition(desired, facts, prune, lines or written or service, container)
    return replace(change, outdated=outdated, lines=lines)


def of_same_definition(
    desired: DesiredService, facts: HostFacts, prune: bool, service: Mapping[str, Any], container: Container
) -> Change:
    """What happens to a model whose container is made as it should be. service: the lines of compose.yaml that it is
    made of."""
    name = desired.name
    if not container.running:
        return Change(name, Action.START, (describe_state(container),))
    if changed_by_hand(desired, facts, service):
        # Compose itself knows whether the container was made of the changed lines, and makes it anew only then
        return Change(name, Action.START, ("its service in compose.yaml was edited by hand",))
    if health(name, desired.entry, facts) == Health.LOADING:
        return Change(name, Action.WAIT, ("still loading",))
    if reasons := list(pulls.reasons(desired, facts, prune)):
        return Change(name, Action.PULL, tuple(reasons))
    if pins.unchecked(desired, facts):
        return Change(name, Action.CHECK, ("its weights against the lock",))
    if desired.locked.digest and tagged(container, desired.reference, facts) != container.image:
        return Change(
            name, Action.CHECK, (f"{desired.reference} differs on this host from the locked image that runs",)
        )
    return Change(name, Action.KEEP)


def is_respelled(old: Mapping[str, Any], new: Mapping[str, Any], named: str | None, container: Container) -> bool:
    """Has gpurack only another name for the image of the same version? named: what its name means on the host."""
    return "version" in new and old.get("version") == new["version"] and named == container.image


def lines_of(
    desired: DesiredService, container: Container, written: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """The lines of compose.yaml that a model's container was made of, by the digest in its label: those that this
    gpurack would write, with the container's own label, or those in the file (written). None where they are lost."""
    definition = ledger.label(container.labels)
    if definition.get("service") == digest(desired.service):
        return desired.labelled_as(definition)
    return written if written and definition.get("service") == digest_of(written, desired.service) else None


def digest_of(lines: Mapping[str, Any], service: Mapping[str, Any]) -> str:
    """The digest of lines of compose.yaml. service: those that this gpurack would write, whose own labels it counts."""
    bare = {word: value for word, value in lines.items() if word != "labels"}
    return digest(bare | ({"labels": service["labels"]} if "labels" in service else {}))


def edited(lines: Mapping[str, Any] | None, service: Mapping[str, Any]) -> bool:
    """Were lines of compose.yaml changed by hand since some gpurack wrote them? By the digest in their own label."""
    return lines is not None and ledger.label(mapping(lines.get("labels"))).get("service") != digest_of(lines, service)


def unknown(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    """The words that a definition lacks because an older gpurack wrote it."""
    return {word for word in LATER if word in new and word not in old}


def why_renewed(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    lines: Mapping[str, Any] | None,
    service: Mapping[str, Any],
    renew: bool,
) -> list[str]:
    """Why a container is recreated of whose definition (old) only what gpurack makes of it differs from the inventory's
    (new); nothing for one that stays. lines: those that it was made of, None where they are lost."""
    files = changed_secrets("files", old.get("files"), new.get("files"))
    both = {*(lines or {}), *service} - {"labels"} if lines else set()
    words = {word for word in both if lines and lines.get(word) != service.get(word)}
    if unknown(old, new):  # the label tells of config and connections by these alone
        if files:
            return files
        if not old.get("files") and (lines is None or words & {"command", "entrypoint", "environment"}):
            return ["its connections changed, or gpurack's own settings for this engine"]
    which = ", ".join([*sorted(words), *(line.rpartition(" ")[0] for line in files)])
    return [f"gpurack's own settings for this engine changed{': ' if which else ''}{which}"] if renew else []


def tagged(container: Container, reference: str, facts: HostFacts) -> str | None:
    """The image that a container's reference means on the host now; None for none."""
    return facts.images_of(container.user).get(reference)


def moved(desired: DesiredService, facts: HostFacts, container: Container) -> list[str]:
    """Whether a container's image or weights are others than the lock's, or its tag is a different image now."""
    reference = desired.reference
    image = pins.moved_image(desired.locked, reference, facts.digests_of(container.user).get(container.image, ()))
    commits = dict.fromkeys(pins.moved_commits(desired, facts).values())
    named = tagged(container, reference, facts)
    if not desired.locked.digest and named not in (None, container.image):
        image = f"image moved: {reference} is a different image now"
    return [reason for reason in (image, *commits) if reason]


def published_elsewhere(service: Mapping[str, Any], container: Container, follows: bool = False) -> list[str]:
    """Does a container publish other ports than it should? Whoever made it, it may be open to everybody. follows: it
    binds to the host's address, whatever that is."""
    expected = {(port["host_ip"], int(port["published"])) for port in service.get("ports", [])}
    if "network_mode" in service or set(container.ports) == expected:
        return []
    found, wanted = (", ".join(f"{ip}:{port}" for ip, port in sorted(all_)) for all_ in (container.ports, expected))
    return [f"published on {found or 'no port'}{'' if follows else ' by hand'}, not on {wanted}"]


def changed_by_hand(desired: DesiredService, facts: HostFacts, service: Mapping[str, Any]) -> bool:
    """Are its lines in the compose.yaml on the host others than it was made of (service)? The label, which is as it
    should be, says that it was not gpurack that changed them."""
    written = compose.old_services(facts, desired.user).get(desired.name)
    words = {*(written or {}), *service} - {"labels"}
    return written is not None and any(written.get(word) != service.get(word) for word in words)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two definitions, in the inventory's words: `gpus [0] → [3]`. What gpurack makes of them is
    left out, and what the old one cannot tell."""
    reasons = []
    skipped = unknown(old, new)
    for word in sorted({*old, *new} - {"uuids", "render_nodes", *OWN, *SALTED} - skipped):
        if old.get(word) != new.get(word):
            reasons += changed_words(word, old.get(word), new.get(word))
    for word in SALTED:
        if word not in skipped:
            reasons += changed_secrets(word, old.get(word), new.get(word))
    if not reasons and old.get("uuids") != new.get("uuids"):
        reasons.append(f"GPUs {', '.join(ledger.uuids_in(old))} → {', '.join(ledger.uuids_in(new))}")
    if not reasons and old.get("render_nodes") != new.get("render_nodes"):
        reasons.append(f"its GPU has another device: {', '.join(new.get('render_nodes', []))}")
    return reasons


def changed_words(word: str, old: Any, new: Any) -> list[str]:
    """One field; maps (args, env) item by item."""
    if word == "access":  # cards came by CDI before there was a word for it
        return [f"nvidia.access {old or 'cdi'} → {new or 'cdi'}"]
    if isinstance(old, Mapping) or isinstance(new, Mapping):
        before, after = mapping(old), mapping(new)
        keys = sorted(key for key in {*before, *after} if before.get(key, ABSENT) != after.get(key, ABSENT))
        return [f"{word}.{key} {shown(before.get(key, ABSENT))} → {shown(after.get(key, ABSENT))}" for key in keys]
    return [f"{word} {shown(ABSENT if old is None else old)} → {shown(ABSENT if new is None else new)}"]


def mapping(value: Any) -> Mapping[str, Any]:
    """The map that a label holds; what is none there is nothing, for others may have written the label."""
    return value if isinstance(value, Mapping) else {}


def changed_secrets(word: str, old: Any, new: Any) -> list[str]:
    """Of fingerprints only that they differ can be said; several stand in a map, by name."""
    if isinstance(old or new, Mapping):
        before, after = mapping(old), mapping(new)
        names = sorted({*before, *after})
        return [line for name in names for line in changed_secrets(f"{word}.{name}", before.get(name), after.get(name))]
    if old == new:
        return []
    return [f"{word} {'changed' if old and new else 'added' if new else 'removed'}"]


def shown(value: Any) -> str:
    """A value in a reason; nothing is a dash."""
    if value is ABSENT:
        return "–"
    return value if isinstance(value, str) else json.dumps(value)


def describe_state(container: Container) -> str:
    """Why a container that should run does not: `exited with code 137`."""
    if container.status == "exited":
        return f"it exited with code {container.exit_code}"
    return f"it is {container.status}" + (f" ({container.error})" if container.error else "")


def replaced(desired: DesiredService, facts: HostFacts) -> Container | None:
    """The container made by hand whose place a model takes; also when an earlier run has set it aside already."""
    old, user = desired.entry.replaces, desired.user
    found = {
        (container.name, container.user): container
        for container in facts.containers
        if container.user in (user, "") and not container.kind
    }
    names = ((name, whose) for whose in (user, "") for name in (old, f"{old}{paths.SET_ASIDE}"))
    return next((found[key] for key in names if key in found), None) if old else None


def of_change(change: Change, desired: Mapping[str, DesiredService], facts: HostFacts) -> Container | None:
    """The container that a change is about, if it is there."""
    if change.action == Action.REMOVE:
        return facts.ours.get((change.user, change.model))
    return facts.container(change.model, desired[change.model].user)


def holdings(container: Container | None, desired: DesiredService | None = None) -> set[str]:
    """The cards and ports that a container has, and those that a desired one will have."""
    held: set[str] = set()
    if container:
        definition = ledger.label(container.labels)
        for word in ("uuids", "render_nodes"):
            cards = definition.get(word, [])
            held |= {f"gpu {card}" for card in (cards if isinstance(cards, list) else [])}
        # a user's daemon may claim any port; its model has the one that root gave it
        ports = [definition.get("port")] if container.user else [port for _, port in container.ports]
        held |= {f"port {port}" for port in ports if port is not None}
    if desired:
        held |= {f"gpu {card}" for card in (*desired.uuids, *desired.devices.nodes)}
        held.add(f"port {desired.entry.port}")
    return held
