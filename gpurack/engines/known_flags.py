"""Known flags of engines: gpurack/engines/flags/ENGINE.txt, one in each line.

The lists also contain ollama's variables and the keys of llama-cpp-python's configuration. Each list is of one version,
named in its first line with the source ("# vllm 0.32.0: …"). A flag that is missing from the list is an error for that
version, and a warning for other versions, which may have it. An unknown variable is only a warning, because no engine
exits over one.
"""

from collections.abc import Collection
from functools import cache
from pathlib import Path

from gpurack.engines import ENGINES
from gpurack.engines.args import with_dashes
from gpurack.spec.model import Model
from gpurack.spec.problems import Problem, nearest

FOLDER = Path(__file__).parent / "flags"


@cache
def known(engine: str) -> tuple[str, frozenset[str]]:
    """Return (version, its flags without leading dashes); ("", nothing) for an engine without a list."""
    path = FOLDER / f"{engine}.txt"
    if not path.is_file():
        return "", frozenset()
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    return head.split()[2].rstrip(":"), frozenset(line.lstrip("-") for line in lines)


def unknown_flags(model: Model) -> list[Problem]:
    """Return an error for each flag, key and variable that is missing from our list. No host is named."""
    version, flags = known(model.engine)
    if not flags:
        return []
    found = []
    engine = ENGINES[model.engine]
    for field, word in engine.words(model):
        name = word.lstrip("-")
        begin_so = [flag for flag in flags if flag.startswith(name)] if engine.abbreviates and word != name else []
        if name not in flags and len(begin_so) != 1:
            guess = best_guess(name, flags)
            hint = f"Did you mean {guess}?" if guess else ""
            if guess and field.startswith("args.") and (own := engine.own_args.get(with_dashes(guess))):
                hint = f"Did you mean the field `{own}`?"
            parts = {"engine": model.engine, "version": version, "flag": word, "hint": hint}
            found.append(Problem.of("flag-unknown", path=field, **parts))
    return found


def best_guess(word: str, words: Collection[str]) -> str | None:
    """Return the flag with the same last part in another place, or the most similar one in the same place.

    >>> best_guess("config.n_ctx", {"n_ctx", "config.port", "config.models.n_ctx", "config.models.n_batch"})
    'config.models.n_ctx'
    """
    place, dot, last = word.rpartition(".")
    elsewhere = next((other for other in sorted(words) if dot and other.endswith(f".{last}")), None)
    guess = nearest(last, [other.rpartition(".")[2] for other in words if other.rpartition(".")[0] == place])
    return elsewhere or (f"{place}{dot}{guess}" if guess else None)


def unknown_flag_errors(model: Model) -> list[Problem]:
    """Return the errors that would prevent the start: the model's version is that of our list."""
    same = model.version is not None and model.version == known(model.engine)[0]
    return [problem for problem in unknown_flags(model) if same and not problem.path.startswith("env.")]


def unknown_flag_warnings(model: Model) -> list[Problem]:
    """Return the others as warnings.

    Another version, or an image, may have the flag. An unknown variable has no effect.
    """
    version, errors = known(model.engine)[0], unknown_flag_errors(model)
    found = []
    for problem in unknown_flags(model):
        if problem not in errors:
            parts = dict(problem.parameters)
            hints, listed = [parts["hint"]], ""
            if model.version != version:
                listed = f"; gpurack has no list of the flags of {model.version or 'the image'}"
                hints.append(f"{model.version or 'The image'} may have it.")
            hints += ["An unknown variable has no effect."] if problem.path.startswith("env.") else []
            parts["hint"] = " ".join(filter(None, hints))
            found.append(Problem.of("flag-perhaps-unknown", field=problem.path, listed=listed, **parts))
    return found
