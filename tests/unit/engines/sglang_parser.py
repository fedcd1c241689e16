"""Holds our cases against the argument parser of a real SGLang. Run by a Python that has one (its wheel, and of what it
needs PyTorch's CPU build and what its import asks for; docs/engines.md):

    PYTHON tests/unit/engines/sglang_parser.py > gpurack/engines/flags/sglang.txt
    PYTHON tests/unit/engines/sglang_parser.py knows > tests/testbed/engines/standins/sglang_knows.json

Prints its flags, which are those that gpurack knows; with `knows` also their types, and its variables, for the
stand-in. Exits with 1 when it refuses the arguments of a case.
"""

import argparse
import json
import re
import sys
from itertools import pairwise
from pathlib import Path

import sglang
from sglang.srt.environ import Envs
from sglang.srt.server_args import ServerArgs

parser = argparse.ArgumentParser(allow_abbrev=False)
ServerArgs.add_cli_args(parser)
for path in sorted((Path(__file__).parent / "sglang").glob("*.json")):
    case = json.loads(path.read_text())
    if "service" not in case:
        continue
    words = case["service"]["command"]
    given = parser.parse_args(words[words.index("sglang.launch_server") + 1 :])
    flags = dict(pairwise(words))
    assert given.model_path == flags["--model-path"]
    assert given.served_model_name == flags["--served-model-name"]
    assert given.tp_size == int(flags.get("--tp-size", 1))
    assert given.context_length == (int(flags["--context-length"]) if "--context-length" in flags else None)
    print(f"{path.stem}: accepted", file=sys.stderr)


def kind(action: argparse.Action) -> str | list[str]:
    """flag, int, human_readable_int, float, text, json, many; or a list: one of these, and the choices."""
    if action.nargs == 0:
        return "flag"
    if action.nargs in ("+", "*"):
        return "many"
    name = getattr(action.type, "__name__", "str")
    of_name = {
        "int": "int", "human_readable_int": "human_readable_int", "float": "float", "loads": "json",
        "json_list_type": "json",
    }  # fmt: skip
    found = of_name.get(name, "text")
    return [found, *sorted(map(str, action.choices))] if action.choices else found


if sys.argv[1:] == ["knows"]:
    options = {flag: kind(action) for action in parser._actions for flag in action.option_strings}
    declared = {name for name in vars(Envs) if name.startswith("SGLANG_")}
    # some are not declared there, and read directly
    server = Path(sglang.__file__).parent / "srt"
    read = {name for file in server.rglob("*.py") for name in re.findall(r'"(SGLANG_\w+)"', file.read_text())}
    print(json.dumps({"flags": dict(sorted(options.items())), "variables": sorted(declared | read)}, indent=0))
else:
    print(f"# sglang {sglang.__version__}: the option strings of its own argument parser ({Path(__file__).name})")
    print("\n".join(sorted({flag for action in parser._actions for flag in action.option_strings})))
