"""llama.cpp's images `light` and `full` as people run them by hand → what an entry of `jobs` says of it."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from gpurack.engines import ENGINES
from gpurack.engines.container import CPU, Accelerator
from gpurack.engines.llama_cpp import TOOLS
from gpurack.importing.container import ContainerRun, Mount
from gpurack.plan.jobs import FOLDER
from gpurack.spec.image_ref import split


def fields_of(run: ContainerRun, image: str, absolute: Callable[[str], str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields of the job, its words of Compose). absolute: a path of the host, from any form of writing it."""
    version = version_of(image, run.command, run.gpus is not None)
    fields: dict[str, Any] = {"version": version} if version else {"image": image}
    own = next((mount for mount in run.mounts if folder_of(mount)), None)
    if own:
        fields["folder"] = absolute(own.source)
    fields["command"] = list(run.command)
    if result := result_of(run.command):
        fields["result"] = result
    others = [
        f"{mount.source if mount.kind == 'volume' else absolute(mount.source)}:{mount.target}"
        + (":ro" if mount.read_only else "")
        for mount in run.mounts
        if mount is not own and mount.source
    ]
    words = {key: value for key, value in run.compose.items() if key not in ("restart", "environment")}
    if run.entrypoint:
        words["entrypoint"] = list(run.entrypoint)
    return fields, {**words, **({"volumes": others} if others else {})}


def version_of(image: str, command: Sequence[str], with_cards: bool) -> str | None:
    """The version by which gpurack would choose this very image for the command; None when there is none."""
    _, tag, _ = split(image)
    version = (tag or "").rpartition("-")[2]
    accelerator = Accelerator("nvidia") if with_cards else CPU
    if not re.fullmatch(r"b\d+", version):
        return None
    return version if ENGINES["llama.cpp"].job_image(version, accelerator, command) == image else None


def folder_of(mount: Mount) -> bool:
    """Is it the folder that a job has at /models?"""
    return mount.kind == "bind" and mount.target.rstrip("/") == FOLDER and not mount.read_only


def result_of(command: Sequence[str]) -> str | None:
    """The file in its folder that a command makes, where it says so, or where tools.sh has only one name for it."""
    made = None
    if command[:1] == ("--quantize",) and len(command) > 2:
        made = command[2]
    elif command[:1] == ("--all-in-one",) and len(command) == 3:
        made = f"{command[1].rstrip('/')}/{command[2].strip('/')}/ggml-model-q4_0.bin"
    elif "--outfile" in command[:-1]:
        made = command[command.index("--outfile") + 1]
    return made.removeprefix(f"{FOLDER}/") if made and made.startswith(f"{FOLDER}/") else None


def name_of(run: ContainerRun) -> str:
    """The container's name, else what it does: `quantize`, `prompt`."""
    first = run.command[0] if run.command else ""
    return run.name or (first.lstrip("-") if first in TOOLS and first != "--run" else "prompt")


def makes_a_file(command: Sequence[str]) -> bool:
    """Does it make a file that nobody can know by its command?"""
    return command[:1] in (("--all-in-one",), ("--convert",))
