"""Keep what `gpurack plan` refuses out of an imported inventory, with the reason, so that it accepts the rest."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from gpurack.engines import ENGINES
from gpurack.importing.container import Finding
from gpurack.importing.reader import Imported, line_of
from gpurack.spec.problems import Problem

CLAIMED = ("gpu-claimed-twice", "mig-shared")
TOGETHER = (*CLAIMED, "port-used-twice", "served-name-used-twice")
"""Errors of entries that are right each for itself; those of their GPUs."""
INCOMPLETE = ("weights-path-relative", "invalid-revision")
UNKNOWN = "UNKNOWN"
OF_THE_ADMIN = ("secret-unreadable",)
"""Errors of this machine, not of the entry: a finding says which variable to export."""
FIT = "--fit A30=4, with the GPUs of your host, proposes a placement."
Check = Callable[[Mapping[str, Any]], Sequence[Problem]]
"""The errors that `gpurack plan` reports for the fields of a host."""


def accepted(imported: Imported, check: Check) -> Imported:
    """The import with entries that plan accepts, and a finding for each of the others.

    An entry that cannot run beside those before it, or that has an unknown path or revision, is disabled. One that plan
    refuses in any case is in `refused`.
    """
    result = deepcopy(imported)
    disabled: list[Finding] = []
    while named := [
        found
        for problem in check(result.data)
        if problem.code not in OF_THE_ADMIN and (found := entry_of(result, problem))
    ]:  # one at a time: other errors may have been of the same entry
        kind, key, problem = min(named, key=lambda found: (found[2].code in TOGETHER, place_of(result, found[1])))
        fields = result.entries[kind][key]
        field = problem.path.removeprefix(f"{kind}.{key}.")
        said = dict(problem.parameters)
        if problem.code == "served-name-used-twice" and serve_also(fields):
            name = said["name"]
            result.findings = [one for one in result.findings if one.where != where(result, key) or
                               not one.what.startswith(f'served_name is "{name}"')]  # fmt: skip
            what = f'"{name}" is a second name of it, because it is the served name of {said["one"]}.'
            result.findings.append(Finding("changed", where(result, key), what))
            continue
        if problem.code in TOGETHER and fields.get("enabled", True):
            fields["enabled"] = False
            what = f"is disabled: {reason(result, problem)}"
        elif name_unknown(fields, field.split("."), problem.code):
            fields["enabled"] = False
            what = f"is disabled until {UNKNOWN} is known: {problem.what}"
        else:
            result.refused.setdefault(kind, {})[key] = result.entries[kind].pop(key)
            what = f"is a comment, because plan refuses it: {field}: {reason(result, problem)}"
        disabled.append(Finding("open", where(result, key), what))
    result.findings += sorted(disabled, key=line_of)
    return result


def place_of(imported: Imported, key: str) -> int:
    """The place of an entry in the order of the source."""
    order = list(imported.places)
    return order.index(key) if key in order else len(order)


def reason(imported: Imported, problem: Problem) -> str:
    """Why an entry cannot stay as it is."""
    said = dict(problem.parameters)
    if problem.code == "gpu-claimed-twice":
        fit = "" if "hardware" in imported.host else f" {FIT}"
        return f"it has a GPU of {claimants(imported, problem)[0]}. Choose another, or set vram for both.{fit}"
    if problem.code == "unknown-model" and any(said["name"] in keys for keys in imported.refused.values()):
        return f"{said['name']} is a comment. Correct that entry first."
    return problem.what


def claimants(imported: Imported, problem: Problem) -> list[str]:
    """The entries that claim the same GPUs, in the order of the source; [] for another error."""
    names = dict(problem.parameters).get("names", "").split(", ") if problem.code in CLAIMED else []
    return sorted(names, key=lambda name: place_of(imported, name))


def entry_of(imported: Imported, problem: Problem) -> tuple[str, str, Problem] | None:
    """(kind and name of the entry of an error, the error); None for an error of the host.

    Of entries that claim the same GPUs it is the last one of the source.
    """
    last = claimants(imported, problem)[-1:]
    for kind, entries in imported.entries.items():
        for key in last or sorted(entries, key=len, reverse=True):
            if key in entries and (last or f"{problem.path}.".startswith(f"{kind}.{key}.")):
                return kind, key, problem
    return None


def name_unknown(fields: dict[str, Any], path: Sequence[str], code: str) -> bool:
    """Put UNKNOWN in the place of an unknown folder or revision at a path in an entry; False for another value."""
    if code not in INCOMPLETE:
        return False
    suffixes = ENGINES[fields["engine"]].weights_suffixes
    for part in path[:-1]:
        fields = fields[int(part)] if isinstance(fields, list) else fields.get(part, {})
    value = fields.get(path[-1])
    if not isinstance(value, str) or UNKNOWN in value:
        return False
    name = value.removeprefix("./") + ("" if not suffixes or value.endswith(suffixes) else suffixes[0])
    fields[path[-1]] = f"/{UNKNOWN}/{name}" if code == "weights-path-relative" else UNKNOWN
    return True


def serve_also(fields: dict[str, Any]) -> bool:
    """Make the name that clients used the second one of an entry, if its engine can have several."""
    engine = ENGINES[fields["engine"]]
    flag = next(iter(engine.flags_for("served_name")), "")
    names = [fields["served_name"], *fields.get("args", {}).get(flag, [])] if "served_name" in fields else []
    if not names or not engine.adds(flag, names):
        return False
    del fields["served_name"]
    fields["args"] = {**fields.get("args", {}), flag: names}
    return True


def where(imported: Imported, key: str) -> str:
    """The place of an entry in findings."""
    place = imported.places.get(key, key)
    return place if key in place else f"{place} ({key})"
