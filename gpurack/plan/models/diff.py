"""Compare a container with the inventory: definition, image, state and answer. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Container
from gpurack.plan import pins
from gpurack.plan.models import compose, ledger, pulls
from gpurack.plan.models.desired import SALTED, DesiredService, digest
from gpurack.plan.models.health import (
    Health,
    failing,
    health,
    last_test,
    restarted,
    started_again,
    unpublished,
    why_stopped,
)
from gpurack.plan.models.stopped import start_reason, stop_of

OWN = ("service", "files")
"""Words that gpurack derives from the others. If only they differ, gpurack changed, not the inventory."""
LATER = ("config", "upstreams")
"""Words that labels of an older gpurack lack. Files and variables are derived from them."""
ABSENT = object()
"""Stands for a missing key. A null in `compose` is different: it removes a key."""


class Action(StrEnum):
    """What a run does to an entry. The runner on the host gets the value. outcome: the word in the table afterwards."""

    KEEP = "keep", "unchanged"
    CREATE = "create", "created"
    RECREATE = "recreate", "recreated"
    START = "start", "started"
    RESTART = "restart", "restarted"
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

    outdated: does its container keep settings of an older gpurack? lines: the lines of compose.yaml from which a
    container that stays was created. None: it gets those of this gpurack, or its own are lost. down: the seconds that
    it is expected to be down (downtime.py), None if unknown or if it serves on.
    """

    model: str
    action: Action
    reasons: tuple[str, ...] = ()
    outdated: bool = field(default=False, compare=False)
    lines: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    down: int | None = field(default=None, compare=False)
    user: str = ""
    """Of a removal: the user in whose Docker the container is."""
    brings: bool = field(default=False, compare=False)
    """Of a check: does it fetch weights or name an image again?"""

    @property
    def looks_only(self) -> bool:
        """Is the container only tested or waited for, so that nothing changes?"""
        return self.action in (Action.CHECK, Action.WAIT) and not self.brings

    @property
    def lost(self) -> bool:
        """Does its container keep settings of an older gpurack, of which no lines of compose.yaml are left?"""
        return self.outdated and self.lines is None

    def __str__(self) -> str:
        return f"{self.action} {self.model}" + (f": {', '.join(self.reasons)}" if self.reasons else "")


def compare(desired: DesiredService, facts: HostFacts, prune: bool = False, renew: bool = False) -> Change:
    """Compare a model with its container: definition, image, state, and its answer.

    prune: remove models that an ollama has but that are not listed? renew: recreate if only gpurack's own settings
    changed?
    """
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
    change = change_of_unchanged(desired, facts, prune, lines or written or service, container)
    return replace(change, outdated=outdated, lines=lines)


def change_of_unchanged(
    desired: DesiredService, facts: HostFacts, prune: bool, service: Mapping[str, Any], container: Container
) -> Change:
    """Return what happens to a model whose container was created as it should be.

    service: the lines of compose.yaml from which it was created.
    """
    name, one = desired.name, desired.observed(facts)
    if not container.running:
        by = stop_of(one)
        return Change(name, Action.START, (start_reason(by, facts) if by else describe_state(container),))
    if changed_by_hand(desired, facts, service):
        # Compose recreates the container only if it was not created from the changed lines.
        return Change(name, Action.START, ("its service in compose.yaml was edited by hand",))
    state = health(one)
    if state == Health.UNPUBLISHED:
        ports = ", ".join(map(str, unpublished(container, facts)))
        return Change(name, Action.RESTART, (f"Docker no longer publishes its port {ports}",))
    if state == Health.LOADING:
        return Change(name, Action.WAIT, ("still loading",))
    if state == Health.NOT_ASKED and "curl" in facts.tools:
        return Change(name, Action.START, ("it runs, but Docker does not list it",))
    if reasons := list(pulls.reasons(desired, facts, prune)):
        return Change(name, Action.PULL, tuple(reasons))
    brought, checks = [], []
    if gone := [path for one, path in desired.weights if not isinstance(one, str) and is_missing(path, facts)]:
        brought.append(f"{gone[0]} is missing on the host; it is fetched again")
    if desired.locked.digest and tagged(container, desired.reference, facts) != container.image:
        brought.append(f"{desired.reference} differs on this host from the locked image that runs")
    if pins.unchecked(desired, facts):
        checks.append("its weights against the lock")
    if problem := failing(one):
        checks.append(problem.message.rstrip("."))
    elif again := restarted(one):
        checks.append(f"it was {again}")
    elif state == Health.READY and last_test(one) is None:
        checks.append("its answer to a request is not known")
    elif state == Health.READY and started_again(one):
        checks.append("it was started since its last test")
    if brought or checks:
        return Change(name, Action.CHECK, (*brought, *checks), brings=bool(brought))
    return Change(name, Action.KEEP)


def is_missing(path: str, facts: HostFacts) -> bool:
    """Does the snapshot say that there is nothing at this path?"""
    return facts.weights.get(path, 0) is None and path not in facts.irregular


def is_respelled(old: Mapping[str, Any], new: Mapping[str, Any], named: str | None, container: Container) -> bool:
    """Does only the image's name differ, for the same version?

    named: the image that the new name means on the host.
    """
    return "version" in new and old.get("version") == new["version"] and named == container.image


def lines_of(
    desired: DesiredService, container: Container, written: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """Return the lines of compose.yaml from which a container was created, by the digest in its label.

    Either those that this gpurack would write, with the container's own label, or those in the file (written). None if
    they are lost.
    """
    definition = ledger.label(container.labels)
    if definition.get("service") == digest(desired.service):
        return desired.labelled_as(definition)
    return written if written and definition.get("service") == digest_of(written, desired.service) else None


def digest_of(lines: Mapping[str, Any], service: Mapping[str, Any]) -> str:
    """Return the digest of lines of compose.yaml.

    service: the lines that this gpurack would write; the entry's own labels are taken from it.
    """
    bare = {word: value for word, value in lines.items() if word != "labels"}
    return digest(bare | ({"labels": service["labels"]} if "labels" in service else {}))


def edited(lines: Mapping[str, Any] | None, service: Mapping[str, Any]) -> bool:
    """Were lines of compose.yaml changed by hand since a gpurack wrote them? Compares the digest in their own label."""
    return lines is not None and ledger.label(mapping(lines.get("labels"))).get("service") != digest_of(lines, service)


def unknown(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    """Return the words that a definition lacks because an older gpurack wrote it."""
    return {word for word in LATER if word in new and word not in old}


def why_renewed(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    lines: Mapping[str, Any] | None,
    service: Mapping[str, Any],
    renew: bool,
) -> list[str]:
    """Return why a container is recreated if only what gpurack derives differs; [] if it stays.

    old, new: the definitions of its label and of the inventory. lines: those from which it was created, None if they
    are lost.
    """
    files = changed_secrets("files", old.get("files"), new.get("files"))
    both = {*(lines or {}), *service} - {"labels"} if lines else set()
    words = {word for word in both if lines and lines.get(word) != service.get(word)}
    if unknown(old, new):  # then changed config or connections show only in files and lines
        if files:
            return files
        if not old.get("files") and (lines is None or words & {"command", "entrypoint", "environment"}):
            return ["its connections changed, or gpurack's own settings for this engine"]
    which = ", ".join([*sorted(words), *(line.rpartition(" ")[0] for line in files)])
    return [f"gpurack's own settings for this engine changed{': ' if which else ''}{which}"] if renew else []


def tagged(container: Container, reference: str, facts: HostFacts) -> str | None:
    """Return the image that a container's reference names on the host now; None if there is none."""
    return facts.images_of(container.user).get(reference)


def moved(desired: DesiredService, facts: HostFacts, container: Container) -> list[str]:
    """Return how a container's image and weights differ from the lock.

    Without a locked image: whether its tag names another image now.
    """
    reference = desired.reference
    image = pins.moved_image(desired.locked, reference, facts.digests_of(container.user).get(container.image, ()))
    commits = dict.fromkeys(pins.moved_commits(desired, facts).values())
    named = tagged(container, reference, facts)
    if not desired.locked.digest and named not in (None, container.image):
        image = f"image moved: {reference} is a different image now"
    return [reason for reason in (image, *commits) if reason]


def published_elsewhere(service: Mapping[str, Any], container: Container, follows: bool = False) -> list[str]:
    """Return the difference between the ports that a container publishes and those that it should.

    Whoever changed it, it may be reachable by everyone. follows: it binds to the host's address, which may have
    changed.
    """
    expected = {(port["host_ip"], int(port["published"])) for port in service.get("ports", [])}
    if "network_mode" in service or set(container.ports) == expected:
        return []
    found, wanted = (", ".join(f"{ip}:{port}" for ip, port in sorted(all_)) for all_ in (container.ports, expected))
    return [f"published on {found or 'no port'}{'' if follows else ' by hand'}, not on {wanted}"]


def changed_by_hand(desired: DesiredService, facts: HostFacts, service: Mapping[str, Any]) -> bool:
    """Do its lines in compose.yaml on the host differ from those that it was created from (service)?

    Its label is right, so gpurack did not change them.
    """
    written = compose.old_services(facts, desired.user).get(desired.name)
    words = {*(written or {}), *service} - {"labels"}
    return written is not None and any(written.get(word) != service.get(word) for word in words)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what changed between two definitions, in the inventory's words: `gpus [0] → [3]`.

    Words that gpurack derives are left out, and those that the old definition does not have.

    >>> differences({"gpus": "[0]", "args": {"c": 1}}, {"gpus": "[3]", "args": {"c": 2}})
    ['args.c 1 → 2', 'gpus [0] → [3]']
    """
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
    """Return the change of one word; of maps (args, env), the change of each item."""
    if word == "access":  # without this word, GPUs came by CDI
        return [f"nvidia.access {old or 'cdi'} → {new or 'cdi'}"]
    if isinstance(old, Mapping) or isinstance(new, Mapping):
        before, after = mapping(old), mapping(new)
        keys = sorted(key for key in {*before, *after} if before.get(key, ABSENT) != after.get(key, ABSENT))
        return [f"{word}.{key} {shown(before.get(key, ABSENT))} → {shown(after.get(key, ABSENT))}" for key in keys]
    return [f"{word} {shown(ABSENT if old is None else old)} → {shown(ABSENT if new is None else new)}"]


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a map of a label; {} for anything else, because others may have written the label."""
    return value if isinstance(value, Mapping) else {}


def changed_secrets(word: str, old: Any, new: Any) -> list[str]:
    """Return `added`, `removed` or `changed`: nothing else is known from fingerprints.

    >>> changed_secrets("keys", {"ada": "5a:1"}, {"ada": "5a:2", "bob": "5a:3"})
    ['keys.ada changed', 'keys.bob added']
    """
    if isinstance(old or new, Mapping):
        before, after = mapping(old), mapping(new)
        names = sorted({*before, *after})
        return [line for name in names for line in changed_secrets(f"{word}.{name}", before.get(name), after.get(name))]
    if old == new:
        return []
    return [f"{word} {'changed' if old and new else 'added' if new else 'removed'}"]


def shown(value: Any) -> str:
    """Return a value for a reason; a dash if it is missing."""
    if value is ABSENT:
        return "–"
    return value if isinstance(value, str) else json.dumps(value)


def describe_state(container: Container) -> str:
    """Return why a container that should run does not: `it exited with code 137`."""
    return f"it {'' if container.status == 'exited' else 'is '}{why_stopped(container)}"


def replaced(desired: DesiredService, facts: HostFacts) -> Container | None:
    """Return the container made by hand that a model replaces, also if an earlier run has set it aside."""
    old, user = desired.entry.replaces, desired.user
    found = {
        (container.name, container.user): container
        for container in facts.containers
        if container.user in (user, "") and not container.kind
    }
    names = ((name, whose) for whose in (user, "") for name in (old, f"{old}{paths.SET_ASIDE}"))
    return next((found[key] for key in names if key in found), None) if old else None


def container_of_change(change: Change, desired: Mapping[str, DesiredService], facts: HostFacts) -> Container | None:
    """Return the container that a change is about, or None."""
    if change.action == Action.REMOVE:
        return facts.ours.get((change.user, change.model))
    return facts.container(change.model, desired[change.model].user)
