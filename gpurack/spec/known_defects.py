"""Versions with a known defect that no error message names. A warning each, never a refusal. Pure.

A row is only as wide as its source: what was read in the release's own files, or said in the thread.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gpurack.spec.problems import Problem

Component = Literal["toolkit"]
TITLES: dict[Component, str] = {"toolkit": "NVIDIA Container Toolkit"}


@dataclass(frozen=True)
class Defect:
    """A defect of these versions (upstream's numbers) of a component.

    symptom: what goes wrong, a clause. fix: what to do, a sentence. source: where it was read.
    """

    component: Component
    versions: tuple[str, ...]
    symptom: str
    fix: str
    source: str


DEFECTS = (
    Defect(
        "toolkit",
        ("1.18.0",),
        "nvidia-cdi-refresh is skipped with Debian's own driver (nvidia-current), so CDI specs get old",
        "Use 1.18.2 or newer.",
        "nvidia-cdi-refresh.service at tag v1.18.0",
    ),
    Defect(
        "toolkit",
        ("1.18.1",),
        "nvidia-cdi-refresh is skipped where kernel modules are compressed (Ubuntu 24.04, RHEL, Fedora), so CDI specs "
        "get old",
        "Use 1.18.2 or newer.",
        "https://github.com/NVIDIA/nvidia-container-toolkit/issues/1517",
    ),
    Defect(
        "toolkit",
        ("1.18.2",),
        "nvidia-cdi-refresh can fail at boot, before the driver is loaded",
        "Use 1.19.1 or newer.",
        "https://github.com/NVIDIA/nvidia-container-toolkit/issues/1611",
    ),
)


def known_defects(component: Component, version: str | None, path: str = "") -> Iterator[Problem]:
    """Yield a warning for each known defect of a version (upstream's number).

    >>> [problem.code for problem in known_defects("toolkit", "1.18.1")], [*known_defects("toolkit", "1.20.0")]
    (['known-defect'], [])
    """
    for defect in DEFECTS:
        if defect.component == component and version in defect.versions:
            told = {"what": f"{TITLES[component]} {version}", "symptom": defect.symptom}
            yield Problem.of("known-defect", path=path, **told, fix=f"{defect.fix} Source: {defect.source}")
