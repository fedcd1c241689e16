"""Who applied a model, in words, from the host's record. Pure."""

from gpurack.facts.model import HostFacts
from gpurack.facts.record import Entry


def recorded(key: tuple[str, str], facts: HostFacts) -> Entry | None:
    """Return what the record says of a container. key: (user, name)."""
    return (facts.record or {}).get(key[0], {}).get(key[1])


def owner(entry: Entry) -> str:
    """Return `lab nlp (applied by ada, 2026-11-29 14:02 UTC)`."""
    return f"lab {entry.lab} (applied by {applied(entry)})" if applied(entry) else f"lab {entry.lab}"


def applied(entry: Entry) -> str:
    """Return who applied a model and when: `ada, 2026-11-29 14:02 UTC`.

    >>> applied(Entry(None, "model", applied="2026-11-29T14:02:41Z", by="ada")), applied(Entry(None, "model"))
    ('ada, 2026-11-29 14:02 UTC', '')
    """
    when = f"{entry.applied[:16].replace('T', ' ')} UTC" if entry.applied else ""
    return ", ".join(part for part in (entry.by, when) if part)
