"""The plan of `gpurack stop`: one model, by the host's record. Pure."""

from dataclasses import replace

from gpurack.plan.models.observed import Observed
from gpurack.plan.models.ownership import Claim, own_view
from gpurack.plan.models.plan import ModelsPlan, host_files
from gpurack.plan.models.stopped import key_of
from gpurack.plan.runner import draining, proven_ids
from gpurack.spec.problems import Problem


def plan_stop(one: Observed, claim: Claim, why: str | None = None) -> ModelsPlan:
    """Plan to stop the container of an entry.

    why: the reason of a hold, which survives runs; None stops it until the next run. The boot unit of an older gpurack
    would start it, so the host's files are renewed.
    """
    facts = own_view(one.spec, one.facts, claim)
    user, _ = key = key_of(replace(one, facts=facts))
    if key not in facts.ours:
        return ModelsPlan(errors={one.name: Problem.of("nothing-to-stop", path=one.path)})
    job = {
        "verb": "stop",
        "name": one.name,
        "user": user,
        "ours": proven_ids(facts),
        "origin": claim.origin.payload,
        "hold": why is not None,
        "why": why or "",
        **draining(facts.ours[key]),
    }
    return ModelsPlan(steps=tuple(host_files(facts)), job=job)
