"""An entry's `args` as flags of its engine, and the numbers in flags and versions."""

import re
from collections.abc import Collection, Mapping

from gpurack.spec.model import ArgValue, Model


def normal(flag: str) -> str:
    """A flag with dashes for underscores, as gpurack compares flags; most parsers distinguish the two."""
    return flag.replace("_", "-")


def given(model: Model) -> dict[str, ArgValue]:
    """The flags of `args` by their normal name, without those that are `false`."""
    return {normal(flag): value for flag, value in model.args.items() if value is not False}


def flags(args: Mapping[str, ArgValue], one_dash: Collection[str] = ()) -> list[str]:
    """The inventory's `args` as the engine's flags: true gives the flag alone, a list repeats it.

    one_dash: long names that the engine spells with one dash.

    >>> flags({"c": 4096, "ngl": 99, "metrics": True, "lora": ["a", "b"]}, one_dash={"ngl"})
    ['-c', '4096', '-ngl', '99', '--metrics', '--lora', 'a', '--lora', 'b']
    """
    words: list[str] = []
    for name, value in args.items():
        flag = f"-{name}" if len(name) == 1 or name in one_dash else f"--{name}"
        for item in value if isinstance(value, list) else [value]:
            if item is True:
                words.append(flag)
            elif item is not False:
                words += [flag, str(item)]
    return words


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparing: "580.95.05" is (580, 95, 5)."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def parallel(model: Model, *names: str) -> int | None:
    """The number that args give for a flag with several spellings; None if they give none."""
    given = {normal(flag): value for flag, value in model.args.items()}
    found = next((given[name] for name in names if name in given), None)
    return int(str(found)) if re.fullmatch(r"[1-9]\d*", str(found)) else None
