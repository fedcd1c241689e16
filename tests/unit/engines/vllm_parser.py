"""Holds our cases against the argument parser of a real vLLM. Run by a Python that has one (docs/engines.md):

    PYTHON tests/unit/engines/vllm_parser.py > gpurack/engines/flags/vllm.txt

Prints its flags, which are those that gpurack knows. Exits with 1 when it refuses the arguments of a case.
"""

import json
import sys
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = make_arg_parser(FlexibleArgumentParser())
for path in sorted((Path(__file__).parent / "vllm").glob("*.json")):
    case = json.loads(path.read_text())
    if "service" not in case:
        continue
    words = [*case["service"]["entrypoint"], *case["service"]["command"]]
    given = parser.parse_args(words[words.index("serve") + 1 :])
    validate_parsed_serve_args(given)
    flags = dict(pairwise(words))
    assert given.model_tag == words[words.index("serve") + 1]
    assert given.served_model_name == [flags["--served-model-name"]]
    assert given.tensor_parallel_size == int(flags.get("--tensor-parallel-size", 1))
    assert given.max_model_len == (int(flags["--max-model-len"]) if "--max-model-len" in flags else None)
    print(f"{path.stem}: accepted", file=sys.stderr)
print(
    f"# vllm {version('vllm').partition('+')[0]}: the option strings of its own argument parser ({Path(__file__).name})"
)
print("\n".join(sorted({flag for action in parser._actions for flag in action.option_strings})))
