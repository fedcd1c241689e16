"""Convert a container that ends by itself to an entry of `jobs`."""

from collections.abc import Callable
from typing import Any

from gpurack.engines.base import Engine
from gpurack.engines.container import CPU, Accelerator
from gpurack.engines.jobs import Jobs
from gpurack.importing.container import ContainerRun, Mount
from gpurack.plan.models.jobs import FOLDER
from gpurack.spec.image_ref import split


def fields_of(
    run: ContainerRun, image: str, engine: Engine, absolute: Callable[[str], str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields of the job, its Compose fields). absolute: makes any path of the host absolute."""
    version = version_of(image, run, engine)
    fields: dict[str, Any] = {"version": version} if version else {"image": image}
    own = next((mount for mount in run.mounts if folder_of(mount)), None)
    if own:
        fields["folder"] = absolute(own.source)
    fields["command"] = list(run.command)
    if result := result_of(run, engine):
        fields["result"] = result
    others = [
        f"{mount.source if mount.kind == 'volume' else absolute(mount.source)}:{mount.target}"
        + (":ro" if mount.read_only else "")
        for mount in run.mounts
        if mount is not own and mount.source
    ]
    words = {key: value for key, value in run.compose.items() if key != "restart"}
    if run.entrypoint:
        words["entrypoint"] = list(run.entrypoint)
    return fields, {**words, **({"volumes": others} if others else {})}


def version_of(image: str, run: ContainerRun, engine: Engine) -> str | None:
    """The version for which gpurack chooses exactly this image; None without one."""
    version = jobs_of(engine).version(split(image)[1] or "")
    accelerator = Accelerator("nvidia") if run.gpus is not None else CPU
    return version if version and engine.job_image(version, accelerator, run.command) == image else None


def folder_of(mount: Mount) -> bool:
    """True for the mount that becomes the job's `folder`, at /models."""
    return mount.kind == "bind" and mount.target.rstrip("/") == FOLDER and not mount.read_only


def result_of(run: ContainerRun, engine: Engine) -> str | None:
    """The file that a job makes in its folder, if its command names it."""
    made = jobs_of(engine).result(run.command)
    return made.removeprefix(f"{FOLDER}/") if made and made.startswith(f"{FOLDER}/") else None


def name_of(run: ContainerRun, engine: Engine) -> str:
    """The container's name, else its action: `quantize`, `prompt`."""
    return run.name or jobs_of(engine).name(run.command)


def jobs_of(engine: Engine) -> Jobs:
    """The jobs of an engine, which must have some."""
    assert engine.jobs
    return engine.jobs
