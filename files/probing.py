"""Proves that CUDA works in a model's image before the model's old container is stopped. A part of models.py.

The image runs for some seconds with exactly the model's GPUs, and without network, mounts and secrets
(gpurack/plan/models/probes.py). Only what certainly fails is a failure: without an answer the change continues.

Runs as root, on the host's own python3 (3.6 or newer, standard library only).
"""

import threading

import kept_logs
import processes
from common import Failure, Progress, TimeIsUp, parsed, say, show_progress  # (beside this file)
from cuda_faults import OLDEST_DRIVER, continues_without, cuda_of_image, fault
from paths import CUDA_LABEL
from remedies import error_hint

ANSWER = 20  # seconds for a registry to say what an image has
LIMIT = 60  # seconds; cuInit takes 0.1 to 2, more where the driver first has to set up eight GPUs


class Proof:
    """What is known in this run of an image with these GPUs. found: as cuda_faults.fault; lock: held to find it out."""

    def __init__(self):
        self.lock, self.tried, self.found = threading.Lock(), False, None


def prove(job, model, member, batch):
    """Raise Failure where the new container of a member cannot use CUDA. batch: its change's id."""
    wanted = model.get("cuda")
    if not wanted:
        if model.get("cuda_untested"):
            say(model["name"], "CUDA is not tested in its image, which has no program for it")
        return
    image = member["image"] or model["image"]
    proof = job.proofs[member["user"], image, tuple(wanted["run"])]
    with proof.lock:
        if not proof.tried:
            words = (*wanted["run"], image, *wanted["arguments"])
            with show_progress(Progress(model["name"]), "testing CUDA in its image"):
                output = run(job.dockerd(member["user"]), batch, words)
            proof.tried, proof.found = True, fault(output, wanted["gpus"])
    if proof.found:
        what = "its image cannot use the GPUs ({}).{}"
        raise Failure(what.format(proof.found, error_hint(0, proof.found, model.get("hints", ()))))


def refuse_image(dockerd, model, reference, options):
    """Raise Failure where an image at a registry has a CUDA that the host's driver cannot run, before it is pulled.

    options: of docker, for logins. Without an answer, and for an image that does not say it, nothing is refused."""
    driver = model["driver"]
    words = ("buildx", "imagetools", "inspect", "--format", "{{json .Image}}", reference)
    with show_progress(Progress(model["name"]), "reading the CUDA version of its image"):
        try:
            code, output = processes.docker(dockerd, *options, *words, limit=ANSWER)
        except TimeIsUp:
            return
    answer = "" if code else next((line for line in output.splitlines() if line.startswith("{")), "")
    found = [cuda_of_image(variables) for variables in environments(parsed(answer))]
    if found and all(cuda and cuda > driver["cuda"] for cuda in found):
        what = (
            "its image needs CUDA {}, and the NVIDIA driver {} runs CUDA {} at most, so it was not pulled. Install "
            "{}, or use an older image (`version`)"
        )
        cuda = min(found)
        needs = "driver {} or newer".format(OLDEST_DRIVER[cuda]) if cuda in OLDEST_DRIVER else "a newer driver"
        raise Failure(what.format(cuda, driver["version"], driver["cuda"], needs))


def environments(image):
    """The variables of an image, for each of its platforms. image: what buildx prints, of one or by platform."""
    if not isinstance(image, dict):
        return []
    each = [image] if "config" in image else [one for one in image.values() if isinstance(one, dict)]
    configs = [one.get("config") for one in each]
    lists = [config.get("Env") for config in configs if isinstance(config, dict)]
    return [[str(variable) for variable in one] for one in lists if isinstance(one, list)]


def refuse_cpu(dockerd, model, container):
    """Raise Failure where a new container has GPUs, and its log says that it continues on the CPU."""
    if not model["uuids"]:
        return
    try:
        log = kept_logs.plain(kept_logs.tail(dockerd, container))
    except Failure:  # its log driver cannot be read
        return
    found = continues_without(log)
    if found:
        what = "it computes on the CPU, not on its GPUs ({}).{}"
        raise Failure(what.format(found, error_hint(0, found, model.get("hints", ()))))


def run(dockerd, batch, words):
    """What a probe prints; "" where it takes too long. Its container is removed, or Failure is raised."""
    label = "{}={}".format(CUDA_LABEL, batch)
    try:
        return processes.docker(dockerd, "run", "--rm", "--label", label, *words, limit=LIMIT)[1]
    except TimeIsUp:
        dockerd.remove_labelled(CUDA_LABEL, batch)
        return ""
