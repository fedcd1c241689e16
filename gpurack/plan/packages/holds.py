"""Holds of packages: gpurack notes those that it sets, and releases no others. Pure."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.plan.packages.base import Packages
from gpurack.plan.steps import Shell, Step
from gpurack.shell import Sh, sh
from gpurack.spec.problems import Problem


def noted(facts: HostFacts) -> set[str]:
    """Return the packages that gpurack put on hold."""
    return set(facts.files[paths.HELD].text.split()) if paths.HELD in facts.files else set()


def held(names: Iterable[str], facts: HostFacts) -> list[str]:
    """Return those of these packages that are on hold."""
    return [name for name in names if name in facts.packages and facts.packages[name].held]


def noting(step: Step, names: Collection[str], facts: HostFacts) -> Step:
    """Return a step that holds packages, with the note of those of them that are not held yet in front.

    The note comes first, so that a killed run knows what it may have held.
    """
    new = {name for name in names if name not in held(names, facts)} | noted(facts)
    if new == noted(facts) or not isinstance(step, Shell):
        return step
    return replace(step, command=sh("{} && {}", _written(new), step.command))


def _written(names: Collection[str]) -> Sh:
    return sh(
        "install -d -m 755 {folder} && printf '%s\\n' {names} >{file}.new && sync {file}.new && "
        "mv -f {file}.new {file} && sync {folder}",
        folder=paths.STATE,
        names=sorted(names),
        file=paths.HELD,
    )


def hold(names: Sequence[str], facts: HostFacts, manager: Packages) -> list[Step]:
    """Return the step that holds those of these packages that are not held yet."""
    loose = [name for name in names if not facts.packages[name].held]
    return [noting(manager.hold(loose, facts), loose, facts)] if loose else []


def release(names: Sequence[str], facts: HostFacts, manager: Packages) -> list[Step]:
    """Return the steps that release those of these packages that gpurack holds."""
    known = noted(facts)
    if not known & set(names):
        return []
    ours = [name for name in held(names, facts) if name in known]
    forget = Shell("forget which packages gpurack held", _written(known - set(names)))
    return [*([manager.unhold(ours, facts)] if ours else []), forget]


def of_others(names: Sequence[str], facts: HostFacts) -> list[Problem]:
    """Return the warning about holds that gpurack did not set and that stay; none if there are none."""
    others = sorted(set(held(names, facts)) - noted(facts))
    if not others:
        return []
    apt = facts.os.id in ("debian", "ubuntu")
    tool = "apt-mark unhold" if apt else f"{facts.manager.program} versionlock delete"
    return [Problem.of("held-by-others", names=", ".join(others), command=f"{tool} {' '.join(others)}")]
