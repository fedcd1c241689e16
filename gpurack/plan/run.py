"""What a plan depends on, in addition to the inventory and the facts of the host."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from gpurack.plan.models.ownership import NO_CLAIM, Claim
from gpurack.spec.problems import Problem
from gpurack.spec.secret import NO_VALUES, Values

Verb = Literal["apply", "rollback", "start", "restart"]
"""The commands of gpurack that change models by a plan."""


@dataclass(frozen=True)
class Run:
    """What a plan depends on, in addition to inventory and facts.

    unattended: is there no question (`-y`)? toolkit, models: do these stages belong to the run? If models do, they
    report blockers themselves, so that the other models are served. executing: are changes made, not only announced?
    down: user → why nothing can run in that user's rootless Docker now; the error names the user's models, or the user
    if there are none.

    values: of the host's secrets. salt: fresh random hex, for models without a fingerprint. prune: remove models of an
    ollama that are not listed? renew: recreate containers with settings of an older gpurack? retry: entries whose
    creation is tried again although the same one failed. claim: what the lab may do with models that are there. only:
    the entry that is planned; all others stay as they are. rollback: the mark of an entry that this plan's earlier
    definition replaces (models/rollback.py). database: the copy of its database that is brought back with it. verb: of
    the gpurack command; "start" and "restart" mean the entry `only`.
    """

    unattended: bool = False
    toolkit: bool = True
    models: bool = True
    executing: bool = False
    down: Mapping[str, Problem] = field(default_factory=dict)
    values: Values = NO_VALUES
    salt: str = ""
    prune: bool = False
    renew: bool = False
    retry: Collection[str] = ()
    claim: Claim = NO_CLAIM
    only: str = ""
    rollback: str = ""
    database: str = ""
    verb: Verb = "apply"


def as_preview(run: Run) -> Run:
    """The same run, but nothing of it is carried out now, so it needs no confirmation."""
    return replace(run, unattended=False, executing=False)
