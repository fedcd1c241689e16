"""The programs of files/ that run on hosts, as modules, and fakes of the commands that they call."""

import functools
import hashlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from gpurack.facts.sections import MARK, unpacked
from gpurack.resources import modules_of

FILES = Path(__file__).resolve().parents[2] / "files"
sys.path.append(str(FILES))  # they import one another, as where they run


def found_shells() -> list[list[str]]:
    """POSIX shells of this machine, each program once: sh is one of the others on most systems."""
    found: dict[str, list[str]] = {}
    for shell in (["sh"], ["dash"], ["busybox", "ash"], ["bash", "--posix"]):
        if place := shutil.which(shell[0]):
            found.setdefault(os.path.realpath(place), shell)
    return list(found.values())


SHELLS = found_shells()


def load(name: str) -> Any:
    """files/NAME.py as a fresh module, so that its constants can be changed."""
    source = importlib.util.spec_from_file_location(f"gpurack_files_{name}", FILES / f"{name}.py")
    assert source
    assert source.loader
    module: ModuleType = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    return module


class Whole:
    """A program of files/ with the modules that it imports, all fresh, as one.

    What is changed in it changes in each module that has it.
    """

    def __init__(self, name: str) -> None:
        parts = modules_of(name)
        for part in parts:
            sys.modules.pop(part, None)
        modules = [load(name), *(importlib.import_module(part) for part in parts)]
        self.__dict__["modules"] = [(module, dict(vars(module))) for module in modules]

    def __getattr__(self, name: str) -> Any:
        found = [vars(module)[name] for module, _ in self.modules if name in vars(module)]
        if not found:
            raise AttributeError(name)
        return found[0]

    def __setattr__(self, name: str, value: Any) -> None:
        for module, _ in self.modules:
            if name in vars(module):
                setattr(module, name, value)

    def __delattr__(self, name: str) -> None:
        """Undo a change, as monkeypatch does where an object has no such attribute of its own."""
        for module, first in self.modules:
            if name in first:
                setattr(module, name, first[name])


PARTS = ("system", "NVIDIA", "AMD", "Docker", "names", "upstreams")


@functools.cache
def without_parts(snapshot: str, *kept: str) -> str:
    """A snapshot's script with only these of its PARTS, for what the others, which take time, do not matter to.
    Weights and users are inspected always."""
    for part in PARTS:
        line = re.compile(rf"^\tbegin {part} \w+\n", re.MULTILINE)
        assert len(line.findall(snapshot)) == 1, part
        snapshot = snapshot if part in kept else line.sub("", snapshot)
    assert set(kept) <= set(PARTS)
    return snapshot


def plain(output: str) -> list[str]:
    """The lines that a snapshot's script printed, unpacked."""
    lines = output.split("\n")
    inside = unpacked(lines, lines[0].removeprefix(MARK))
    return lines if inside is lines else [lines[0], *inside]


def container_id(name: str) -> str:
    """The id that the fake of Docker gives the container of that name."""
    return hashlib.sha256(name.encode()).hexdigest()


CONTAINERS = """
for word; do
    shift
    [ -f "$STATE/id.$word" ] && read -r word <"$STATE/id.$word"
    set -- "$@" "$word"
done
for name; do :; done
project=gpurack
[ -f "$STATE/project" ] && read -r project <"$STATE/project"
case "$*" in
'container inspect --format {"id":'*)
    [ -e "$STATE/runs.$name" ] || { echo "Error: No such container: $name"; exit 1; }
    labels='{"gpurack.model":"{}","com.docker.compose.project":"'$project'","com.docker.compose.service":"'$name'"}'
    [ -f "$STATE/labels.$name" ] && labels=$(cat "$STATE/labels.$name")
    called=$name
    [ -f "$STATE/called.$name" ] && read -r called <"$STATE/called.$name"
    read -r id <"$STATE/idof.$name"
    echo '{"id":"'$id'","name":"/'$called'","labels":'$labels'}'; exit;;
"ps --all --quiet --no-trunc"*)
    for file in "$STATE"/runs.*; do
        one=${file#*/runs.}
        [ -e "$file" ] && case "$*" in *service=$one|*=$project) cat "$STATE/idof.$one"; echo;; esac
    done
    cat "$STATE/alike" 2>/dev/null; exit 0;;
esac
"""
"""The head of a fake docker: ids in its arguments become names, and it knows the containers that have a file
$STATE/runs.NAME, with Compose's labels (or those in labels.NAME), by their own name (or that in called.NAME)."""


DOCKER_SOCKET = "/var/run/docker.sock"


class Fakes:
    """A folder at the head of PATH. Every call of a fake is remembered in the order of the calls."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "calls"
        self.containers: list[str] = []
        folder.mkdir()
        self.log.write_text("")
        # this machine's own Docker is not asked: a fake of docker is, if there is one
        asks = f'case "$*" in *" {DOCKER_SOCKET} "*) exit 1;; esac'
        (folder / "python3").write_text(f'#!/bin/sh\n{asks}\nexec {shutil.which("python3")} "$@"\n')
        (folder / "python3").chmod(0o755)

    def add(self, name: str, script: str) -> None:
        """A POSIX sh script as the command `name`; $STATE is a folder of its own to remember things in."""
        path = self.folder / name
        state = self.folder / "state"
        state.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\nSTATE={state}\necho "{name} $*" >>{self.log}\n{script}\n')
        path.chmod(0o755)

    def path(self) -> str:
        """PATH with the fakes first."""
        return f"{self.folder}:{os.environ['PATH']}"

    def state(self, name: str, content: Any) -> None:
        """A file that the scripts read as $STATE/NAME; data become JSON."""
        (self.folder / "state").mkdir(exist_ok=True)
        (self.folder / "state" / name).write_text(content if isinstance(content, str) else json.dumps(content))

    @property
    def calls(self) -> list[str]:
        """What was called until now."""
        text = self.log.read_text()
        for name in self.containers:
            text = text.replace(container_id(name), name)
        return text.splitlines()

    def known(self, *names: str) -> None:
        """Containers that the fake of Docker has ids for; `calls` shows their names in the place of the ids."""
        self.containers += names
        for name in names:
            self.state(f"id.{container_id(name)}", name)
            self.state(f"idof.{name}", container_id(name))
