"""docs/inventory.md, made from the models that check inventories: `make docs` writes it."""

import inspect
import re
import types
import typing
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from gpurack import screen
from gpurack.inventory.checks.ssh_fields import SSH_FIELDS
from gpurack.spec.host import Docker, Download, Gpus, Host, Nvidia
from gpurack.spec.image import Build, TarImage
from gpurack.spec.model import Job, Model
from gpurack.spec.network import Login, Mirror, Proxy
from gpurack.spec.secret import Secret
from gpurack.spec.weights import CopyWeights, HfWeights, ModelScopeWeights, UrlWeights

INTRODUCTION = """\
<!-- Made by `make docs` from gpurack/spec/ (host.py, model.py and what they name); change it there. -->
# The inventory

Read this page when you write an inventory. One file lists the servers and the models on them. It is a pyinfra inventory
in Python, or the same data in YAML. It is checked before any host is touched, and all errors are printed at once (each
kind is in [errors.md](errors.md)):

    gpurack plan inventories/lab.yaml

```python
# inventories/group_data/all.py: data of all hosts
docker = {"source": "docker-ce", "version": "28.5.2", "daemon": {"live-restore": True}}
nvidia = {"toolkit": "1.20.1"}
engines = {"llama.cpp": {"version": "b7000"}}

# inventories/lab.py: the hosts
gpu_hosts = ([
    ("gpu1.lab", {"models": {
        "saiga-7b": {"engine": "llama.cpp", "gpus": [0], "port": 8000, "weights": "/data/models/saiga-q4_K.gguf"},
    }}),
], {"hardware": {"A30": 4}})
```

```yaml
# yaml-language-server: $schema=gpurack.schema.json
# inventories/lab.yaml. For pyinfra, inventories/lab.py is then:
#   import gpurack
#   globals().update(gpurack.load("lab.yaml"))
all:
  docker: {source: docker-ce, version: 28.5.2, daemon: {live-restore: true}}
  nvidia: {toolkit: 1.20.1}
  engines: {llama.cpp: {version: b7000}}
groups:
  gpu_hosts: {hardware: {A30: 4}}
hosts:
  gpu1.lab:
    groups: [gpu_hosts]
    models:
      saiga-7b: {engine: llama.cpp, gpus: [0], port: 8000, weights: /data/models/saiga-q4_K.gguf}
```

**Layers merge.** all → groups → host; and for a model `defaults` → `engines.<its engine>` → its own entry. Maps merge
key by key, lists and single values replace, `null` (Python: `None`) removes; in `docker.daemon` it also removes the key
from the host's daemon.json. (pyinfra's own host data replaces whole maps.)

**For ssh**, use your ~/.ssh/config, or [pyinfra's fields](#ssh) (`ssh_user`, `ssh_port`, `ssh_key`, …).

**In editors.** `gpurack schema > inventories/gpurack.schema.json` writes a JSON Schema. With the first line of the
example above, editors with the YAML language server complete and check a YAML inventory. `gpurack completion bash`
(`zsh`, `fish`) does the same for commands.
"""

LEVELS: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("Host", Host, "Fields of a host, in `all`, in groups and on the host itself. Two more are not a host's own: "
     "`defaults` (any field of a model, for every model) and `engines` (the same, by engine)."),
    ("Model", Model, "One entry of `models` or `services`; its key is its name, its container's name, and the name "
     "clients use."),
    ("Job", Job, ""),
    ("docker", Docker, ""),
    ("nvidia", Nvidia, ""),
    ("download", Download, ""),
    ("hardware: {count, memory}", Gpus, ""),
    ("Secret", Secret, ""),
    ("weights: {url, sha256}", UrlWeights, ""),
    ("weights: {hf, revision}", HfWeights, ""),
    ("weights: {modelscope, revision}", ModelScopeWeights, ""),
    ("weights: {copy}", CopyWeights, ""),
    ("image: {build}", Build, ""),
    ("image: {tar}", TarImage, ""),
    ("mirrors: {url, key}", Mirror, ""),
    ("proxy: {url, no_proxy}", Proxy, ""),
    ("registries: {REGISTRY: {user, password}}", Login, ""),
)  # fmt: skip


OF_SSH = """\
Fields of a host (also in `all` and groups) by which gpurack and pyinfra connect. Without one, ~/.ssh/config decides,
then the default. A field replaces what ~/.ssh/config says."""
JSON_WORDS = {
    "string": "text", "integer": "number", "number": "number", "boolean": "true or false", "object": "map",
}  # fmt: skip
"""Type in JSON schema → in the words of an inventory."""


def inventory_page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for title, level, text in LEVELS:
        parts.append(f"\n## {title}\n\n{text or paragraph(level)}\n\n{table(level)}")
    parts.append(f"\n## ssh\n\n{OF_SSH}\n\n{ssh_table()}")
    return "".join(parts)


def ssh_table() -> str:
    """pyinfra's fields of ssh."""
    lines = ["| field | value | |", "|---|---|---|"]
    lines += [f"| `{name}` | {JSON_WORDS[kind]} | {text} |" for name, (kind, text) in SSH_FIELDS.items()]
    return "\n".join(lines) + "\n"


def paragraph(level: type[BaseModel]) -> str:
    """The class's docstring as one paragraph."""
    return " ".join(inspect.cleandoc(level.__doc__ or "").split())


def table(level: type[BaseModel]) -> str:
    """The fields of one level."""
    lines = ["| field | value | default | |", "|---|---|---|---|"]
    for name, field in level.model_fields.items():
        default = "**required**" if field.is_required() else shown(field.get_default(call_default_factory=True))
        kind = kind_of(field.annotation).replace("|", "\\|")
        lines.append(f"| `{field.alias or name}` | {kind} | {default} | {field.description or ''} |")
    return "\n".join(lines) + "\n"


def shown(default: Any) -> str:
    """A default as the page shows it; empty values are left blank."""
    if default in (None, PydanticUndefined) or default in ({}, [], ()):
        return ""
    if isinstance(default, BaseModel):
        return "see below"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


WORDS: dict[Any, str] = {
    str: "text", int: "number", float: "number", bool: "true or false", dict: "map", list: "list", Any: "anything",
    type(None): "",
}  # fmt: skip


def kind_of(annotation: Any) -> str:
    """A type in the words of an inventory."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if annotation in WORDS:
        return WORDS[annotation]
    if origin is typing.Annotated:
        return kind_of(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f'`"{value}"`' for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(kind for argument in arguments if (kind := kind_of(argument))))
    if origin is list:
        return f"list of {kind_of(arguments[0])}"
    if origin is dict:
        return f"map: {kind_of(arguments[1])}" if arguments[1] is not Any else "map"
    name = getattr(annotation, "__name__", str(annotation))
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower()


if __name__ == "__main__":
    screen.echo(inventory_page(), nl=False)
