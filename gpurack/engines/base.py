"""The shape that every serving engine has. A new engine is one file in this folder with one `Engine`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from gpurack.spec.model import ArgValue, Model


@dataclass(frozen=True)
class Run:
    """What an engine is told about the container it describes.

    served_name: the name clients use. weights: the path inside the container, None without weights.
    gpus: how many cards it gets. api_key_file: where the key lies inside the container, None without a key.
    """

    served_name: str
    weights: str | None
    gpus: int
    api_key_file: str | None


@dataclass(frozen=True)
class Container:
    """What an engine decides about its container; the rest (cards, port, mounts) is the same for all engines."""

    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class Engine(ABC):
    """One serving engine.

    name: the inventory's word. port: where it listens inside its container. ready_path: the path that answers 200
    with the served model's name in the body once it serves. weights_suffixes: file endings it can read.
    """

    name: ClassVar[str]
    port: ClassVar[int]
    ready_path: ClassVar[str] = "/v1/models"
    weights_suffixes: ClassVar[tuple[str, ...]]
    own_args: ClassVar[Mapping[str, str]]
    """Flags that gpurack writes itself → the inventory field that is meant instead."""

    @abstractmethod
    def image(self, version: str, gpu: bool) -> str:
        """The image reference for an upstream version, for NVIDIA cards or the CPU."""

    @abstractmethod
    def container(self, model: Model, run: Run) -> Container:
        """Command and environment of the container."""

    def check(self, model: Model) -> list[tuple[str, str]]:
        """What this engine cannot do of what is asked: (field, sentence)."""
        problems = [
            (f"args.{flag}", f"gpurack sets this flag itself; use the field {self.own_args[flag]}.")
            for flag in model.args
            if flag in self.own_args
        ]
        if model.weights is None:
            problems.append(
                ("weights", f'is missing; {self.name} needs a path on the host or {{"url": …, "sha256": …}}.')
            )
        else:
            name = model.weights if isinstance(model.weights, str) else model.weights.filename
            if not name.endswith(self.weights_suffixes):
                endings = " or ".join(self.weights_suffixes)
                problems.append(("weights", f"{self.name} reads {endings} files, not {name.rsplit('/', 1)[-1]}."))
        return problems


def flags(args: Mapping[str, ArgValue]) -> list[str]:
    """The inventory's `args` as the engine's flags: true is bare, false is left out, a list repeats the flag.

    >>> flags({"c": 4096, "metrics": True, "lora": ["a", "b"]})
    ['-c', '4096', '--metrics', '--lora', 'a', '--lora', 'b']
    """
    words: list[str] = []
    for name, value in args.items():
        flag = f"-{name}" if len(name) == 1 else f"--{name}"
        for item in value if isinstance(value, list) else [value]:
            if item is True:
                words.append(flag)
            elif item is not False:
                words += [flag, str(item)]
    return words
