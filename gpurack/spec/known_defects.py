"""Combinations of versions with a known defect that no error message names. A warning each, never a refusal. Pure.

A row is only as wide as its source: what was read in the release's own files, or said in the thread. What a version
refuses by its own rules (an engine without an image for a GPU, say) is no defect: plan/models/compatibility.py has it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from gpurack.spec.gpu_access import Access
from gpurack.spec.problems import Problem

Component = Literal["toolkit", "docker", "driver", "vllm", "ollama", "compute"]
TITLES: dict[Component, str] = {
    "toolkit": "NVIDIA Container Toolkit",
    "docker": "Docker",
    "driver": "the NVIDIA driver",
    "vllm": "vLLM",
    "ollama": "ollama",
    "compute": "a GPU of compute capability",
}
FIELDS: dict[Component, str] = {"toolkit": "nvidia.toolkit", "docker": "docker.version", "driver": "nvidia.driver"}
"""Components that a field of the host pins. Engines are named in the models' own fields."""
ENGINES: tuple[Component, ...] = ("vllm", "ollama")


@dataclass(frozen=True)
class Versions:
    """The upstream versions from `first` on and below `fixed`; "" is open."""

    first: str = ""
    fixed: str = ""

    def has(self, version: str) -> bool:
        """Is a version among them? False for one without a number.

        >>> Versions("1.19.1", "1.20.1").has("1.20.0"), Versions("580").has("580.95.05"), Versions("", "7.5").has("7.5")
        (True, True, False)
        """
        found = numbers(version)
        return bool(found) and numbers(self.first) <= found and (not self.fixed or found < numbers(self.fixed))


@dataclass(frozen=True)
class Defect:
    """A defect where each component has one of these versions.

    symptom: what goes wrong, a clause. fix: what to do, a sentence. source: where it was read. access: the ways of
    giving GPUs to containers that are affected; () for all.
    """

    versions: Mapping[Component, Versions]
    symptom: str
    fix: str
    source: str
    access: tuple[Access, ...] = ()


_TOOLKIT = "https://github.com/NVIDIA/nvidia-container-toolkit"
_OLLAMA = "https://github.com/ollama/ollama/blob/main/docs/gpu.mdx"
_NEWER = "Use 1.20.1 or newer."
DEFECTS = (
    Defect(
        {"toolkit": Versions("1.18.0", "1.18.1")},
        "nvidia-cdi-refresh is skipped with Debian's own driver (nvidia-current), so CDI specs get old",
        _NEWER,
        "nvidia-cdi-refresh.service at tag v1.18.0",
        ("cdi",),
    ),
    Defect(
        {"toolkit": Versions("1.18.1", "1.18.2")},
        "nvidia-cdi-refresh is skipped where kernel modules are compressed (Ubuntu 24.04, RHEL, Fedora), so CDI specs "
        "get old",
        _NEWER,
        f"{_TOOLKIT}/issues/1517",
        ("cdi",),
    ),
    Defect(
        {"toolkit": Versions("1.18.2", "1.19.0")},
        "nvidia-cdi-refresh can fail at boot, before the driver is loaded",
        _NEWER,
        f"{_TOOLKIT}/issues/1611",
        ("cdi",),
    ),
    Defect(
        {"toolkit": Versions("1.19.0", "1.19.1")},
        "nvidia-cdi-refresh runs at the end of the boot and is not repeated if it fails, so CDI specs come late",
        _NEWER,
        "nvidia-cdi-refresh.service at tag v1.19.0",
        ("cdi",),
    ),
    Defect(
        {"toolkit": Versions("1.19.1", "1.20.1")},
        "the CDI spec that nvidia-cdi-refresh makes at boot can lack /dev/nvidia-uvm; CUDA then fails in containers "
        "(error 999)",
        _NEWER,
        f"{_TOOLKIT}/issues/1982",
        ("cdi",),
    ),
    Defect(
        {"toolkit": Versions("1.19.1"), "docker": Versions("25.0", "26.1")},
        "this Docker cannot read the CDI specs of this toolkit (CDI 0.7.0)",
        "Use Docker 26.1 or newer.",
        f"{_TOOLKIT}/issues/1940",
        ("cdi",),
    ),
    Defect(
        {"driver": Versions("590"), "compute": Versions("", "7.5")},
        "branches from 590 on support no GPU older than Turing",
        "Use branch 580.",
        "NVIDIA's driver README, kernel_open.html",
    ),
    Defect(
        {"vllm": Versions("0.15.0", "0.16.0"), "driver": Versions("580")},
        "an older CUDA library in vLLM's image comes before the driver's, and CUDA then fails (error 803)",
        "Use a newer vLLM, or set LD_LIBRARY_PATH: /usr/local/nvidia/lib64:/usr/local/nvidia/lib in its `env`.",
        "https://github.com/gpustack/gpustack/issues/4678",
        ("cdi", "runtime"),
    ),
    Defect(
        {"ollama": Versions("0.12"), "driver": Versions("", "550")},
        "it does not use GPUs with drivers before branch 550, and computes on the CPU",
        "Install driver 550 or newer.",
        _OLLAMA,
    ),
    Defect(
        {"ollama": Versions("0.12"), "driver": Versions("550", "570"), "compute": Versions("5.0", "7.0")},
        "it does not use GPUs older than Volta with drivers before branch 570, and computes on the CPU",
        "Install branch 570 or 580.",
        _OLLAMA,
    ),
)


def known_defects(
    versions: Mapping[Component, str | None], access: Access, of: Component | None = None, path: str = ""
) -> Iterator[Problem]:
    """Yield a warning for each known defect of these versions (upstream's numbers; None or "" if unknown).

    of: only defects that this component has a part in; the problems are at `path`. Without it at the host's field.

    >>> [problem.path for problem in known_defects({"toolkit": "1.20.0", "docker": "26.0.2"}, "cdi")]
    ['nvidia.toolkit', 'nvidia.toolkit']
    >>> [*known_defects({"toolkit": "1.20.1", "docker": "26.1.5"}, "cdi")]
    []
    """
    for defect in DEFECTS:
        if (of and of not in defect.versions) or (defect.access and access not in defect.access):
            continue
        if all(wanted.has(versions.get(component) or "") for component, wanted in defect.versions.items()):
            what = " with ".join(f"{TITLES[component]} {versions[component]}" for component in defect.versions)
            place = path or FIELDS[next(iter(defect.versions))]
            told = {"what": what[:1].upper() + what[1:], "symptom": defect.symptom}
            yield Problem.of("known-defect", path=place, **told, fix=f"{defect.fix} Source: {defect.source}")


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version.

    >>> numbers("v0.15.1-cu129"), numbers("580.95.05"), numbers("nightly")
    ((0, 15, 1), (580, 95, 5), ())
    """
    found = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(map(int, found[1].split("."))) if found else ()
