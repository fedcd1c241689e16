"""Proves CUDA, devices and arguments in a model's image before the model's old container is stopped.

A part of models.py.

The image runs for some seconds with exactly the model's GPUs, and without network, mounts and secrets
(gpurack/plan/models/probes.py). Only what certainly fails is a failure: without an answer the change continues.

Runs as root, on the host's own python3 (3.6 or newer, standard library only).
"""

import re
import threading

import kept_logs
import processes
from cuda_faults import OLDEST_DRIVER, continues_without, cuda_of_image, fault, needs_other_version, untested
from error_hints import error_hint
from json_data import parsed
from messages import CertainFailure, Failure, TimeIsUp, say
from paths import CUDA_LABEL
from progress import Progress, show_progress  # (beside this file)

ANSWER = 20  # seconds for a registry to say what an image has
LIMIT = 60  # seconds; cuInit takes 0.1 to 2, more where the driver first has to set up eight GPUs
DRY_LIMIT = 180  # seconds; vLLM and SGLang load PyTorch before they read their arguments
NOT_STARTED = 125  # docker run(1): from here on the daemon or the OCI runtime refused, or the program is missing
NO_DEVICE = re.compile(
    r"(?m)^.*(unresolvable CDI devices .*|failed to stat CDI host device .*|could not select device driver .*|"
    r"error gathering device information .*|nvidia-container-cli: .*)$"
)
"""What Docker says where it cannot give a container its devices."""


class Proof:
    """What is known in this run of an image with these GPUs.

    found: as cuda_faults.fault; devices: as no_device; lock: held to find it out.
    """

    def __init__(self):
        self.lock, self.tried, self.found, self.devices = threading.Lock(), False, None, ""


def prove(job, model, member, batch):
    """Raise Failure where the new container of a member cannot use CUDA. batch: its change's id.

    CertainFailure only where another driver or image is needed: services and device files of the host may change."""
    wanted = model.get("cuda")
    if not wanted:
        if model.get("cuda_untested") and is_new(job, member):
            say(model["name"], "CUDA is not tested in its image, which has no program for it")
        return
    image = member["image"] or model["image"]
    proof = job.proofs[member["user"], image, tuple(wanted["run"])]
    with proof.lock:
        if not proof.tried:
            words = (*wanted["run"], image, *wanted["arguments"])
            with show_progress(Progress(model["name"]), "testing CUDA in its image"):
                code, output = run(job.dockerd(member["user"]), batch, words, LIMIT)
            found = fault(output, wanted["gpus"], wanted.get("official", False))
            proof.tried, proof.found, proof.devices = True, found, no_device(code, output)
            if proof.found is None and not proof.devices and is_new(job, member):
                say(model["name"], "CUDA was not tested: {}".format(untested(output, code)))
    if proof.devices:
        raise Failure(proof.devices, "device-not-found")
    if proof.found:
        what = "its image cannot use the GPUs ({}).{}"
        kind = CertainFailure if needs_other_version(proof.found) else Failure
        raise kind(
            what.format(proof.found, error_hint(0, proof.found, model.get("hints", ()))), "image-cannot-use-gpus"
        )


def is_new(job, member):
    """Does a change give its member another image, so that what an image lacks is news? True where that is unknown."""
    if not member.get("old_id"):
        return True
    try:
        found = job.dockerd(member["from"]).inspect(member["old_id"])
    except Failure:
        return True
    return not found or found["image"] != member["image"]


def prove_arguments(job, model, member, batch):
    """Raise Failure where the new container's program refuses its arguments, or Docker its devices, by a dry start.

    batch: its change's id."""
    dry = model.get("dry_start")
    if not dry:
        return
    words = (*dry["run"], member["image"] or model["image"], *dry["arguments"])
    with show_progress(Progress(model["name"]), "testing its arguments by a dry start"):
        code, output = run(job.dockerd(member["user"]), batch, words, DRY_LIMIT)
    refused = no_device(code, output)
    if refused:
        raise Failure(refused, "device-not-found")
    found = refusal(code, output, dry)
    if found:
        on_gpus = bool(model["uuids"])
        hint = error_hint(code, "error: " + found, model.get("hints", ()), on_gpus)
        raise CertainFailure("its program refuses its arguments: {}.{}".format(found, hint), "arguments-refused")


def refusal(code, output, dry):
    """The words with which a program refuses its arguments; "" where it does not, or the output does not prove it.

    code: its exit code, None where it did not end. dry: made by gpurack/plan/models/probes.py.

    >>> how = {"last": ["--end"], "code": 2, "refusals": ["^x: error: (unknown: (?!--end$).*)$"]}
    >>> refusal(2, "usage: x\nx: error: unknown: --nope 1 --end", how)
    'unknown: --nope 1'
    >>> refusal(2, "x: error: unknown: --end", how), refusal(1, "x: error: unknown: --nope", how)
    ('', '')
    """
    if code is None or code != dry["code"]:
        return ""
    each = [re.search(pattern, output, re.MULTILINE) for pattern in dry["refusals"]]
    said = next((found.group(1) for found in each if found), "")
    return " ".join(word for word in said.split() if word not in dry["last"])[:300]


def no_device(code, output):
    """Why Docker cannot give a container its devices, by the output of `docker run`; "" where that is not proven."""
    found = NO_DEVICE.search(output) if code is not None and code >= NOT_STARTED else None
    return "Docker cannot give it its devices: {}".format(found.group(1).strip().rstrip(".")[:300]) if found else ""


def refuse_image(dockerd, model, reference, options):
    """Raise Failure where an image at a registry has a CUDA that the host's driver cannot run, before it is pulled.

    Where it may run by a library in the image (gpurack/plan/models/probes.py: driver_limit), that is said.

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
        cuda = min(found)
        what = "its image needs CUDA {}, and the NVIDIA driver {} runs CUDA {} at most"
        what = what.format(cuda, driver["version"], driver["cuda"])
        if not driver["certain"]:
            says = "{} by itself. It runs only if the image has a CUDA compatibility library for this driver and GPU"
            say(model["name"], says.format(what))
            return
        needs = "driver {} or newer".format(OLDEST_DRIVER[cuda]) if cuda in OLDEST_DRIVER else "a newer driver"
        what += ", so it was not pulled. Install {}, or use an older image (`version`)".format(needs)
        raise CertainFailure(what, "driver-too-old")


def environments(image):
    """The variables of an image, for each of its platforms. image: what buildx prints, of one or by platform."""
    if not isinstance(image, dict):
        return []
    each = [image] if "config" in image else [one for one in image.values() if isinstance(one, dict)]
    configs = [one.get("config") for one in each]
    lists = [config.get("Env") for config in configs if isinstance(config, dict)]
    return [[str(variable) for variable in one] for one in lists if isinstance(one, list)]


def refuse_cpu(dockerd, model, container):
    """Raise Failure where a new container's log says that it continues on the CPU instead of its GPUs.

    Nor does nvidia-smi list it on one (as gpurack/plan/models/computing.py).
    """
    if not model["uuids"] or not model.get("log"):
        return
    try:
        log = kept_logs.plain(kept_logs.tail(dockerd, container))
    except Failure:  # its log driver cannot be read
        return
    found = continues_without(log, model["log"] == "layers")
    if found and not listed(dockerd, container):
        what = "it computes on the CPU, not on its GPUs ({}).{}"
        raise Failure(what.format(found, error_hint(0, found, model.get("hints", ()))), "runs-on-cpu")


def listed(dockerd, container):
    """Does nvidia-smi list a process of a container on a GPU?"""
    on_gpus = {pid for pid, _, _ in processes.compute_apps() or ()}
    return any(pid in on_gpus for pid, _ in processes.of_container(dockerd, container))


def run(dockerd, batch, words, limit):
    """(exit code, output) of a probe; (None, "") where it takes longer than `limit` seconds.

    Then its container is removed; raises Failure where it stays.
    """
    label = "{}={}".format(CUDA_LABEL, batch)
    try:
        return processes.docker(dockerd, "run", "--rm", "--label", label, *words, limit=limit)
    except TimeIsUp:
        dockerd.remove_labelled(CUDA_LABEL, batch)
        return None, ""
