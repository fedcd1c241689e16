"""Holds our cases against the settings of a real llama-cpp-python. Run by a Python that has one (docs/engines.md):

    PYTHON tests/unit/engines/llama_cpp_python_parser.py > gpurack/engines/flags/llama-cpp-python.txt

Prints its flags and the keys of its CONFIG_FILE, which are those that gpurack knows. Exits with 1 when it refuses the
arguments or the config of a case, or takes a config with a key that it does not know.
"""

import argparse
import json
import sys
from pathlib import Path

import llama_cpp
from llama_cpp.server.cli import add_args_from_model, parse_model_from_args
from llama_cpp.server.settings import ConfigFileSettings, ModelSettings, ServerSettings, Settings
from pydantic import ValidationError

parser = argparse.ArgumentParser(allow_abbrev=False)
add_args_from_model(parser, Settings)
parser.add_argument("--config_file")  # as its own main() does
for path in sorted((Path(__file__).parent / "llama-cpp-python").glob("*.json")):
    case = json.loads(path.read_text())
    if "service" not in case:
        continue
    words = case["service"]["command"]
    given = parser.parse_args(words[words.index("llama_cpp.server") + 1 :])
    if given.config_file is None:
        assert parse_model_from_args(ModelSettings, given).model
        parse_model_from_args(ServerSettings, given)
    for content in case.get("files", {}).values():
        assert ConfigFileSettings.model_validate_json(content).models
    print(f"{path.stem}: accepted", file=sys.stderr)
for wrong in (
    {"models": [{"model": "/w.gguf", "n_gpu_layer": 1}]},
    {"models": [{"model": "/w.gguf", "port": 1}]},
    {"models": [{"model": "/w.gguf"}], "n_ctx": 1},
    {"models": [{"model": "/w.gguf"}], "interupt_requests": False},
):
    try:
        ConfigFileSettings.model_validate_json(json.dumps(wrong))
    except ValidationError as error:
        print(f"refused: {' '.join(str(error).split())}", file=sys.stderr)
    else:
        sys.exit(f"{wrong} is taken.")
print(f"# llama-cpp-python {llama_cpp.__version__}: its own argument parser and settings ({Path(__file__).name})")
flags = {flag for action in parser._actions for flag in action.option_strings}
keys = {f"config.{name}" for name in ConfigFileSettings.model_fields}
print("\n".join(sorted({*flags, *keys, *(f"config.models.{name}" for name in ModelSettings.model_fields)})))
