"""What is known about a host without a connection: its Compose project, and whether its models fit. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from gpurack.engines.memory import NotEstimated
from gpurack.facts.parts import Header
from gpurack.plan.models import compose, weights
from gpurack.plan.models.desired import desire
from gpurack.plan.models.imagined import imagined
from gpurack.plan.models.ledger import Ledger, assign
from gpurack.plan.models.memory import Estimate, estimate, refusal, tight
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem

NOTE = """\
# Offline: the GPUs' UUIDs and the address of `bind: lan` are placeholders, and labels are left out.
"""


def imagined_ledger(spec: Host) -> Ledger:
    """Return which entry gets which GPU on a fresh host that the inventory describes."""
    return assign(spec, imagined(spec))


def compose_text(spec: Host) -> str:
    """Return compose.yaml as a run on a fresh host would write it."""
    state = imagined(spec)
    given = assign(spec, state).uuids
    desired = [desire(name, spec, state, uuids) for name, uuids in given.items()]
    users = sorted({one.user for one in desired}) or [""]
    return NOTE + "---\n".join(
        compose.document({one.name: one.service for one in desired if one.user == user}, user) for user in users
    )


@dataclass(frozen=True)
class Sizes:
    """What is known about the memory that a fleet's enabled models need.

    estimates: (host, model) → what it needs of each GPU. reasons: (host, model) → why there is no estimate. seen: the
    oldest day on which weights that are counted here were seen, "" if there are none. problems: what cannot fit.
    warnings: what may not fit.
    """

    estimates: Mapping[tuple[str, str], Estimate]
    reasons: Mapping[tuple[str, str], str]
    seen: str
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def sizes(fleet: Mapping[str, Host], remembered: Mapping[str, Mapping[str, Header]]) -> Sizes:
    """Estimate the memory of all enabled models. remembered: host → path of weights → header, as last seen there."""
    estimates, reasons, days = {}, {}, []
    problems, warnings = [], []
    for name, host in fleet.items():
        ledger = imagined_ledger(host)
        for key, model in host.models.items():
            if not model.enabled:
                continue
            header = remembered.get(name, {}).get(weights.host_path(host, model))
            slots = () if model.gpus == "all" and not host.hardware else ledger.slots_of(key)
            try:
                if model.gpus and not slots:
                    raise NotEstimated("its GPUs are not known; write hardware")
                estimates[name, key] = estimate(model, header, len(slots))
            except NotEstimated as reason:
                reasons[name, key] = str(reason)
            if header:
                days.append(header.seen)
            if error := refusal(model, header, slots):
                seen = f" Weights as seen {header.seen}." if header else ""
                problems.append(Problem.of("model-too-large", name, f"models.{key}", what=f"{error}{seen}"))
            if warning := tight(model, header, slots):
                warnings.append(Problem.of("memory-tight", name, f"models.{key}", what=warning))
    return Sizes(estimates, reasons, min(days, default=""), tuple(problems), tuple(warnings))
