"""The flags that engines have, as far as we know them: gpurack/engines/flags/ENGINE.txt, one a line. What an engine has
instead of flags, or beside them, stands there too: ollama's variables, the keys of llama-cpp-python's configuration.

Each list is of one version, named in the list's first line with where it comes from ("# vllm 0.32.0: …"). What is not
in it is refused for that very version, and only warned of for another, which may have it. A variable is never refused:
no engine ends over one that it does not know.
"""

from collections.abc import Collection
from functools import cache
from pathlib import Path

from gpurack.engines import ENGINES
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
    """(field, sentence) for flags, keys and variables that the version we know does not have."""
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
            hint = f"; did you mean {guess}?" if guess else "."
            found.append((field, f"{model.engine} {version} has no {word}{hint}"))
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


def refused(model: Model) -> list[tuple[str, str]]:
    """Those that end the model, because its version is the very one that we know."""
    same = model.version is not None and model.version == known(model.engine)[0]
    return [(field, what) for field, what in unknown_flags(model) if same and not field.startswith("env.")]


def doubtful(model: Model) -> list[str]:
    """Sentences about the others: another version, or an image, may have them, and a variable only has no effect."""
    version, certain = known(model.engine)[0], refused(model)
    found = []
    for field, what in unknown_flags(model):
        if (field, what) not in certain:
            may = f" {model.version or 'The image'} may have it." if model.version != version else ""
            effect = " An unknown variable has no effect." if field.startswith("env.") else ""
            found.append(f"{field}: {what}{may}{effect}")
    return found
