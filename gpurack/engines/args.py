"""An entry's `args` as flags of its engine, and the numbers in flags and versions."""

import re
from collections.abc import Collection, Mapping

from gpurack.spec.model import ArgValue, Model


def with_dashes(flag: str) -> str:
    """Return a flag with dashes instead of underscores, the form in which gpurack compares flags.

    Most parsers of engines distinguish the two.

    >>> with_dashes("max_model_len")
    'max-model-len'
    """
    return flag.replace("_", "-")


def explicit_args(model: Model) -> dict[str, ArgValue]:
    """Return the flags of `args` by their name with dashes, without those that are `false`."""
    return {with_dashes(flag): value for flag, value in model.args.items() if value is not False}


def flags(args: Mapping[str, ArgValue], one_dash: Collection[str] = (), several: Collection[str] = ()) -> list[str]:
    """Return the inventory's `args` as the engine's flags: `true` gives the flag alone, a list repeats it.

    one_dash: names of several letters that the engine writes with one dash. several: flags that take the words of a
    list at once, because a second one would replace the first.

    >>> flags({"c": 4096, "ngl": 99, "metrics": True, "lora": ["a", "b"]}, one_dash={"ngl"})
    ['-c', '4096', '-ngl', '99', '--metrics', '--lora', 'a', '--lora', 'b']
    >>> flags({"lora-modules": ["a=/a", "b=/b"]}, several={"lora-modules"})
    ['--lora-modules', 'a=/a', 'b=/b']
    """
    words: list[str] = []
    for name, value in args.items():
        flag = f"-{name}" if len(name) == 1 or name in one_dash else f"--{name}"
        if isinstance(value, list) and with_dashes(name) in several:
            words += [flag, *map(str, value)]
            continue
        for item in value if isinstance(value, list) else [value]:
            if item is True:
                words.append(flag)
            elif item is not False:
                words += [flag, str(item)]
    return words


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, for comparison: "580.95.05" → (580, 95, 5).

    >>> numbers("580.95.05") < numbers("580.100")
    True
    """
    return tuple(int(part) for part in re.findall(r"\d+", version))


def parallel(model: Model, *names: str) -> int | None:
    """Return the number that `args` give for a flag with these names; None if they give none."""
    given = {with_dashes(flag): value for flag, value in model.args.items()}
    found = next((given[name] for name in names if name in given), None)
    return int(str(found)) if re.fullmatch(r"[1-9]\d*", str(found)) else None
