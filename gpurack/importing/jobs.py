"""Convert a container that ends by itself to an entry of `jobs`."""

from gpurack.engines.container import CPU, Accelerator
from gpurack.importing import secret
from gpurack.importing.address import valid_key
from gpurack.importing.gpu_fields import convert_gpus, keep_slices
from gpurack.importing.image import convert_image
from gpurack.importing.rest import convert_environment, volume
from gpurack.importing.translation import Entry, Translation
from gpurack.plan.models.jobs import FOLDER
from gpurack.spec.fields import in_order
from gpurack.spec.image_ref import split
from gpurack.spec.model import Job


def convert_job(t: Translation, image: str) -> Entry:
    """The entry of a container that runs once and ends."""
    run, jobs = t.run, t.engine.jobs
    assert jobs
    own = next((one for one in run.mounts if one.kind == "bind" and one.target.rstrip("/") == FOLDER and
                not one.read_only), None)  # fmt: skip
    folder = t.absolute(own.source) if own else None
    volumes = [volume(t, mount) for mount in run.mounts if mount is not own]
    convert_image(t, image)
    version = jobs.version(split(image)[1] or "")
    accelerator = Accelerator("nvidia") if run.gpus is not None else CPU
    if version and not t.built and t.engine.job_image(version, accelerator, run.command) == image:
        t.fields = {"version": version}
    else:
        t.fields = {"image": t.fields["image"] if t.built else image}
    t.fields |= {"engine": t.engine.name, "command": secret.mask_words(run.command)}
    if folder:
        t.fields["folder"] = folder
    if t.fields["command"] != list(run.command):
        t.note("open", f"its command contained a secret, shown as {secret.HIDDEN} here. Use hf_token of the host for "
              "weights, and files for other secrets.")  # fmt: skip
    keep_slices(t)
    convert_gpus(t)
    if t.gpus:
        t.fields["gpus"] = t.gpus
        t.note("changed", "a job never takes a GPU from a model. Choose a free GPU.")
    t.key = valid_key(t, jobs.name(run.command))
    convert_environment(t)
    t.compose.pop("restart", None)
    if run.entrypoint:
        t.compose["entrypoint"] = list(run.entrypoint)
    if volumes:
        t.compose["volumes"] = volumes
    if t.compose:
        t.fields["compose"] = secret.mask(t.compose)
    result = jobs.result(run.command) or ""
    if result.startswith(f"{FOLDER}/"):
        t.fields["result"] = result.removeprefix(f"{FOLDER}/")
    elif jobs.makes_a_file(run.command):
        t.note("open", "its output file is not known. Set result, so that gpurack can check it.")
    t.note("changed", "runs once, and again when its entry changes; its output is kept.")
    return Entry(run.where, "jobs", t.key, in_order(Job, t.fields), t.host)
