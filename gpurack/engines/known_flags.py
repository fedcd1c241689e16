"""The flags that engines have, as far as we know them: gpurack/engines/flags/ENGINE.txt, one flag a line.

Each list comes from a real program of one version, named in the list's first line ("# vllm 0.32.0: …"). A flag that is
not in it is refused for that very version, and only warned of for another, which may have it.
"""

from functools import cache
from pathlib import Path

from gpurack.engines import ENGINES
from gpurack.engines.base import normal
from gpurack.spec.model import Model
from gpurack.spec.problems import nearest

FOLDER = Path(__file__).parent / "flags"


@cache
def known(engine: str) -> tuple[str, frozenset[str]]:
    """(version, its flags without dashes in front); ("", nothing) for an engine whose flags we do not know."""
    path = FOLDER / f"{engine}.txt"
    if not path.is_file():
        return "", frozenset()
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    return head.split()[2].rstrip(":"), frozenset(line.lstrip("-") for line in lines)


def unknown_flags(model: Model) -> list[tuple[str, str]]:
    """(flag as the inventory has it, sentence) for flags of `args` that the version we know does not have.

    A dotted flag (vLLM's `--speculative-config.method`) is known by the part before its dot.
    """
    version, flags = known(model.engine)
    if not flags:
        return []
    found = []
    engine = ENGINES[model.engine]
    for flag in model.args:
        name = normal(flag).partition(".")[0]
        if name not in flags and not {name, normal(flag)} & {*engine.own_args, *engine.removed_args}:
            guess = nearest(name, flags)
            hint = f"; did you mean {guess}?" if guess else "."
            found.append((flag, f"{model.engine} {version} has no --{normal(flag)}{hint}"))
    return found


def is_known_version(model: Model) -> bool:
    """Is the model's engine of the very version whose flags we know?"""
    return model.version is not None and model.version == known(model.engine)[0]
