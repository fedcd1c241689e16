"""Known flags of engines: gpurack/engines/flags/ENGINE.txt, one a line.

The lists also have ollama's variables and the keys of llama-cpp-python's configuration.

Each list is of one version, named in its first line with its source ("# vllm 0.32.0: …"). A flag that is not in it is
an error for that version, and a warning for others, which may have it. An unknown variable is only a warning, because
no engine ends over one.
"""

from collections.abc import Collection
from functools import cache
from pathlib import Path

from gpurack.engines import ENGINES
from gpurack.spec.model import Model
from gpurack.spec.problems import Problem, nearest

FOLDER = Path(__file__).parent / "flags"


@cache
def known(engine: str) -> tuple[str, frozenset[str]]:
    """(version, its flags without dashes in front); ("", nothing) for an engine without a list."""
    path = FOLDER / f"{engine}.txt"
    if not path.is_file():
        return "", frozenset()
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    return head.split()[2].rstrip(":"), frozenset(line.lstrip("-") for line in lines)


def unknown_flags(model: Model) -> list[Problem]:
    """Flags, keys and variables that the version in our list does not have, as errors without a host."""
    version, flags = known(model.engine)
    if not flags:
        return []
    found = []
    engine = ENGINES[model.engine]
    for field, word in engine.words(model):
        name = word.lstrip("-")
        begin_so = [flag for flag in flags if flag.startswith(name)] if engine.abbreviates and word != name else []
        if name not in flags and len(begin_so) != 1:
            guess = meant(name, flags)
            hint = f"Did you mean {guess}?" if guess else ""
            parts = {"engine": model.engine, "version": version, "flag": word, "hint": hint}
            found.append(Problem.of("flag-unknown", path=field, **parts))
    return found


def meant(word: str, words: Collection[str]) -> str | None:
    """The same one in another place, or the nearest in the same.

    >>> meant("config.n_ctx", {"n_ctx", "config.port", "config.models.n_ctx", "config.models.n_batch"})
    'config.models.n_ctx'
    """
    place, dot, last = word.rpartition(".")
    elsewhere = next((other for other in sorted(words) if dot and other.endswith(f".{last}")), None)
    guess = nearest(last, [other.rpartition(".")[2] for other in words if other.rpartition(".")[0] == place])
    return elsewhere or (f"{place}{dot}{guess}" if guess else None)


def unknown_flag_errors(model: Model) -> list[Problem]:
    """Those that would end the model at start: its version is the one of our list."""
    same = model.version is not None and model.version == known(model.engine)[0]
    return [problem for problem in unknown_flags(model) if same and not problem.path.startswith("env.")]


def unknown_flag_warnings(model: Model) -> list[Problem]:
    """The others: another version, or an image, may have the flag; an unknown variable has no effect."""
    version, errors = known(model.engine)[0], unknown_flag_errors(model)
    found = []
    for problem in unknown_flags(model):
        if problem not in errors:
            parts = dict(problem.parameters)
            hints = [parts["hint"]]
            hints += [f"{model.version or 'The image'} may have it."] if model.version != version else []
            hints += ["An unknown variable has no effect."] if problem.path.startswith("env.") else []
            parts["hint"] = " ".join(filter(None, hints))
            found.append(Problem.of("flag-perhaps-unknown", field=problem.path, **parts))
    return found
