"""Recognise the engine in an image, and its version."""

import re
from collections.abc import Iterable, Sequence

from gpurack.engines import ENGINES
from gpurack.engines.base import Engine
from gpurack.engines.container import CPU, Accelerator
from gpurack.spec.image_ref import split


def floats(reference: str) -> bool:
    """True if a reference can become another image: its tag has no version number, and it has no digest.

    >>> floats("a/b:server-cuda12"), floats("a/b"), floats("a/b:1.6"), floats("a/b@sha256:0")
    (True, True, False, False)
    """
    _, tag, digest = split(reference)
    return digest is None and not re.search(r"\d", re.sub(r"(cuda|rocm)\d+", "", tag or ""))


def moved(reference: str) -> str:
    """A reference with the current repository of an image that moved."""
    name, _, _ = split(reference)
    places = (engine.dialect.moved[name] for engine in ENGINES.values() if name in engine.dialect.moved)
    return next((place + reference[len(name) :] for place in places), reference)


def engine_of(reference: str) -> Engine | None:
    """The engine in an image with this name, None if unknown."""
    name, _, _ = split(reference)
    images = ((engine, engine.dialect.images) for engine in ENGINES.values() if engine.dialect.images)
    return next((engine for engine, pattern in images if re.search(rf"(^|/)({pattern})$", name)), None)


def engine_of_job(reference: str, command: Sequence[str]) -> Engine | None:
    """The engine if the command ends by itself (a job); None for a server."""
    engine = engine_of(reference)
    ends = engine and engine.jobs and engine.jobs.ends(split(reference)[1] or "", command)
    return engine if ends else None


def base(word: str) -> str:
    """A program's name without its folder and, for Python, without its version.

    >>> base("/usr/bin/python3.12"), base("./llama-server")
    ('python3', 'llama-server')
    """
    return re.sub(r"^(python3)\.\d+$", r"\1", word.rsplit("/", 1)[-1])


def after_program(programs: Iterable[tuple[str, ...]], words: Sequence[str]) -> list[str] | None:
    """The arguments after any of these programs, also with its absolute path; None for another program."""
    named = [base(word) if at == 0 else word for at, word in enumerate(words)]
    if named[:1] and named[0].startswith("python"):
        while named[1:2] in (["-u"], ["-O"], ["-B"]):
            del named[1]
    for program in programs:
        if tuple(named[: len(program)]) == (base(program[0]), *program[1:]):
            return named[len(program) :]
    return None


def engine_of_program(words: Sequence[str]) -> Engine | None:
    """The engine that a program proves in an unknown image. `serve` or `start.sh` prove nothing."""
    for engine in ENGINES.values():
        proofs = [program for program in engine.dialect.programs if len(program) > 1 or "-" in program[0].strip("-")]
        if after_program([one for one in proofs if not one[-1].endswith(".sh")], words) is not None:
            return engine
    return None


def pulled(words: Sequence[str]) -> str | None:
    """The model that an engine's command pulls; None for another command."""
    every = (engine.dialect.pulls for engine in ENGINES.values())
    return next((after[0] for programs in every if (after := after_program(programs, words))), None)


def version_of(engine: Engine, reference: str, with_gpus: bool) -> str | None:
    """The version for which gpurack chooses exactly this image on all GPUs; None without one."""
    _, tag, digest = split(reference)
    if tag is None or digest is not None or floats(reference):
        return None
    computes = (None, "7.5", "8.0", "8.6", "8.9", "9.0")
    accelerators = [Accelerator("nvidia", compute) for compute in computes] if with_gpus else [CPU]
    parts = tag.split("-")  # `server-cuda-b7000` → `cuda-b7000`, `b7000`
    tails = ["-".join(parts[start:]).lstrip("v") for start in range(len(parts))]
    for candidate in dict.fromkeys((tag, *tails)):
        try:
            chosen = {engine.image(candidate, accelerator) for accelerator in accelerators}
        except LookupError:
            return None
        if chosen == {reference.removeprefix("docker.io/")}:
            return candidate
    return None
