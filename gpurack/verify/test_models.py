"""Does each model serve as the inventory says: image, GPUs, address, weights, answers?"""

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from gpurack import paths
from gpurack.cuda_faults import fault, untested
from gpurack.engines import ENGINES, weights_of
from gpurack.engines.hints import cuda_hint
from gpurack.engines.ollama import full_name
from gpurack.facts.gpus import MISMATCH
from gpurack.plan import pins
from gpurack.plan.models import addresses, compose, probes, weights
from gpurack.plan.models.computing import said_by_log, uses_gpus
from gpurack.plan.models.diff import Action
from gpurack.plan.models.health import Health, failing, judge, restarted
from gpurack.plan.models.observed import Observed
from gpurack.plan.models.slots import gpus_text
from gpurack.shell import Sh, by_ssh, sh
from gpurack.spec.image import BuildImage, TarImage
from gpurack.spec.image_ref import ImageRef
from gpurack.spec.weights import Weights
from gpurack.verify.drift import Drift, on_models
from gpurack.verify.evidence import names_of, processes_of, published, whole
from gpurack.verify.images import alike, meant
from gpurack.verify.lab import Entry
from gpurack.verify.weights import expected_hashes, known

REFUSED = (401, 403)
CDI_DEVICE = "nvidia.com/gpu="
CLOCK = 1e-3
"""Seconds by which two readings of a file's time may differ."""


def keyed(entry: Entry) -> bool:
    """Do its clients need a key, and can it be asked a real request?"""
    return bool(entry.model.api_key or entry.model.keys) and takes_requests(entry)


def has_weights(entry: Entry) -> bool:
    """Does the entry name weights?"""
    return bool(weights_of(entry.model))


def takes_requests(entry: Entry) -> bool:
    """Is there a test request for it?"""
    return bool(ENGINES[entry.model.engine].requests(entry.model, [entry.name]))


def ssh(entry: Entry, command: Sh) -> Sh:
    """Return a command that root runs on the host."""
    return by_ssh(entry.server.name, sh("sudo {}", command))


def docker(entry: Entry, words: Sh) -> Sh:
    """Return a command for the Docker that it runs in: the host's own, or its user's."""
    user = entry.model.dockerd
    if user:
        return by_ssh(entry.server.name, sh("{} {}", compose.docker_command(user), words))
    return ssh(entry, sh("docker {}", words))


def recreate(entry: Entry) -> str:
    """Return the command that recreates its container: a run, after removing a container that a run would keep.

    A run recreates by itself what differs from the inventory, as after a rollback, and the old one serves meanwhile.
    """
    if entry.container and entry.change.action is Action.RECREATE:
        return entry.fix
    return f"{docker(entry, sh('rm -f {}', entry.name))}; {entry.fix}"


def refetch(entry: Entry, wanted: Weights) -> str:
    """Return the command that fetches weights again, if the inventory names their source.

    Everything that was fetched is deleted, because an incomplete download would count as present.
    """
    if isinstance(wanted, str):
        return f"copy the right weights to {wanted}; {docker(entry, sh('restart {}', entry.name))}"
    whole = weights.whole(entry.server.spec, wanted, entry.model.dockerd)
    return f"{ssh(entry, sh('rm -rf {}', whole))}; {recreate(entry)}"


def restart(entry: Entry) -> str | None:
    """Return the command that restarts a running container; None for others, which a run starts."""
    return docker(entry, sh("restart {}", entry.name)) if status(entry) == "running" else None


def status(entry: Entry) -> str:
    """Return Docker's word for its container ("running", "exited", "paused", …); "gone" if there is none."""
    container = entry.container
    return str(container["State"]["Status"]) if container else "gone"


@on_models()
def test_runs(entry: Entry) -> Iterator[Drift]:
    """Its container exists, is gpurack's, runs, and starts again after a boot."""
    container = entry.container
    if container is None:
        if entry.named:
            yield Drift("container", "gpurack's", "one made by hand", recreate(entry))
        else:
            yield Drift("container", "running", "no container with this name")
        return
    if status(entry) == "paused":
        yield Drift("container", "running", "paused", docker(entry, sh("unpause {}", entry.name)))
    elif status(entry) != "running":
        yield Drift("container", "running", status(entry))
    policy, expected = container["HostConfig"]["RestartPolicy"]["Name"], str(entry.service.get("restart", "no"))
    if policy != expected.partition(":")[0]:
        yield Drift("restart policy", expected, policy, recreate(entry))


@on_models()
def test_image(entry: Entry) -> Iterator[Drift]:
    """It runs from the inventory's image, pulled from its registry, and the name still means that image."""
    container = entry.container
    if container is None:
        return
    reference = str(entry.service["image"])
    if not alike(container["Config"]["Image"], reference):
        yield Drift("image", reference, container["Config"]["Image"], recreate(entry))
    # With a lock, the fix is a run: it tags the locked image again. The registry may have another image by now.
    locked = entry.locked.digest
    images = entry.server.seen.daemon(entry.model.dockerd)["images"]
    mine = next((image for image in images if image["id"] == container["Image"]), None)
    named = meant(reference, images)
    if named != container["Image"]:
        found = f"{reference} is {named[7:19]} now" if named else f"no image {reference} any more"
        expected = f"{container['Image'][7:19]}, which it runs from"
        from_registry = not isinstance(entry.model.image, TarImage | BuildImage)
        given_back = sh("tag {} {}", container["Image"][7:19], reference)
        again = sh("pull {}", reference) if from_registry else given_back
        yield Drift("image", expected, found, None if locked else docker(entry, again))
    if mine and locked and pins.moved_image(entry.locked, reference, mine["digests"]):
        yield Drift("image", f"{locked}, by the lock", ", ".join(mine["digests"]) or "one of no registry")
    name = ImageRef.parse(reference).familiar_name
    if mine and entry.model.version and not any(one.startswith(f"{name}@") for one in mine["digests"]):
        fix = f"{docker(entry, sh('rmi -f {}', reference))}; {recreate(entry)}"
        yield Drift("image", f"a digest of {name}", "none: built or loaded by hand", fix)


@on_models()
def test_definition(entry: Entry) -> Iterator[Drift]:
    """Command, environment, mounts and lines in compose.yaml match the inventory.

    Not checked for a container of an older gpurack, if the lines that it was created from are lost.
    """
    container, service = entry.container, entry.service
    if container is None:
        return
    said, made = container["Config"], {} if entry.change.lost else service
    for word, where in {"command": "Cmd", "entrypoint": "Entrypoint"}.items():
        if isinstance(made.get(word), list) and list(map(str, made[word])) != said[where]:
            yield Drift(word, *where_they_part(made[word], said[where] or []), recreate(entry))
    environment, expected = variables(container), made.get("environment")
    for name, value in expected.items() if isinstance(expected, Mapping) else ():
        if environment.get(name) != str(value):
            yield Drift(f"environment {name}", str(value), environment.get(name, "nothing"), recreate(entry))
    mounts = {mount["Destination"]: mount for mount in container["Mounts"]}
    for mount in made.get("volumes", []):
        if isinstance(mount, Mapping) and mount.get("type") == "bind":
            there = mounts.get(mount["target"], {})
            if (there.get("Source"), there.get("RW")) != (mount["source"], not mount.get("read_only")):
                found = there.get("Source", "nothing") + (", writable" if there.get("RW") else "")
                yield Drift(f"mounted at {mount['target']}", mount["source"], found, recreate(entry))
    written = compose.old_services(entry.server.state, entry.model.dockerd).get(entry.name, {})
    words = sorted(word for word in {*written, *service} - {"labels"} if written.get(word) != service.get(word))
    if words:
        found = f"other {', '.join(words)}" if written else "nothing"
        yield Drift(f"{paths.compose_file(entry.model.dockerd)}, {entry.name}", "as written by gpurack", found)


def variables(container: Mapping[str, Any]) -> dict[str, str]:
    """Return a container's environment."""
    return {name: value for name, _, value in (line.partition("=") for line in container["Config"]["Env"] or [])}


def where_they_part(expected: list[Any], found: list[str]) -> tuple[str, str]:
    """Return two commands from the first word that differs, a few words each.

    >>> where_they_part(["-m", "/w/a", "-c", 1], ["-m", "/w/b", "-c", "1"])
    ('… /w/a -c 1', '… /w/b -c 1')
    """
    one, other = list(map(str, expected)), list(found)
    pairs = enumerate(zip(one, other, strict=False))
    same = next((index for index, (mine, theirs) in pairs if mine != theirs), min(len(one), len(other)))
    first, second = (" ".join(words[same : same + 3]) or "nothing more" for words in (one, other))
    return (f"… {first}", f"… {second}") if same else (first, second)


def given_gpus(container: Mapping[str, Any]) -> set[str]:
    """Return the GPUs that Docker gives a container.

    NVIDIA's by UUID ("all" if it gives all), AMD's by render node.
    """
    found = {device["PathOnHost"] for device in container["HostConfig"]["Devices"] or []}
    found = {path for path in found if path.startswith("/dev/dri/render")}
    for request in container["HostConfig"]["DeviceRequests"] or []:
        found |= {one.removeprefix(CDI_DEVICE) for one in request["DeviceIDs"] or ["all"]}
    if container["HostConfig"]["Runtime"] == "nvidia":
        found |= set(variables(container).get("NVIDIA_VISIBLE_DEVICES", "").split(",")) - {"", "void", "none"}
    return found


def listed(uuids: set[str]) -> str:
    """Return GPUs for messages."""
    return ", ".join(sorted(uuids)) or "none"


@on_models()
def test_gpus(entry: Entry) -> Iterator[Drift]:
    """The GPUs that Docker gives it, that it sees inside, and that its processes use are the inventory's."""
    container, uuids, driver = entry.container, set(entry.uuids), entry.server.state.driver
    if problem := entry.server.gpu_ledger.errors.get(entry.name):
        yield Drift("GPUs", f"gpus {gpus_text(entry.model)}", str(problem), ssh(entry, sh("reboot")))
    if container is None:
        return
    devices = entry.desired.devices
    expected = set(devices.nodes) or uuids
    given = set(devices.names) if devices.nvidia_access == "cdi" else expected
    if given_gpus(container) != given:
        yield Drift("GPUs given by Docker", listed(given), listed(given_gpus(container)), recreate(entry))
    if not expected or status(entry) != "running" or driver.exit_code == MISMATCH:
        return  # nvidia-smi fails everywhere then; test_driver reports it
    inside = set(whole(entry.answers.get("cards inside", ()), f"the GPUs inside {entry.name}"))
    if inside != expected and not (driver.platform == "wsl" and expected <= inside):  # there it gets all GPUs
        yield Drift("GPUs seen inside", listed(expected), listed(inside), recreate(entry))
    whose = entry.server.state.uid_of(entry.model.dockerd)
    used = {uuid for uuid, *owner, _ in entry.server.seen["processes"] if owner == [container["Id"], whose]}
    # of a MIG instance, drivers name the instance or its GPU
    used -= {gpu.parent for gpu in entry.server.state.gpus if gpu.uuid in uuids and gpu.parent}
    on_the_cpu = answers(entry) == Health.READY and computes(entry) is False
    if not used <= uuids or on_the_cpu:
        yield Drift("GPUs its processes use", listed(uuids), listed(used), recreate(entry))


def computes(entry: Entry) -> bool | None:
    """Has its running container anything on its GPUs, by nvidia-smi on the host? None if unknown."""
    facts = replace(entry.server.state, gpu_processes=processes_of(entry.server.seen["processes"]))
    return uses_gpus(replace(entry.observed, facts=facts), entry.uuids)


@on_models(lambda entry: bool(entry.model.gpus))
def test_cuda(entry: Entry) -> Iterator[Drift]:
    """CUDA starts in its container and sees its GPUs, or the server's own log says that it does not.

    Not checked on AMD's GPUs, nor with Vulkan.
    """
    engine, desired = ENGINES[entry.model.engine], entry.desired
    if status(entry) != "running" or desired.devices.nvidia_access is None or engine.uses_graphics_driver(entry.model):
        return
    said = whole(entry.answers.get("cuda", ""), f"CUDA in {entry.name}")
    log = whole(entry.answers.get("cuda log", ""), f"the log of {entry.name}")
    proven = fault(said, probes.least(desired), probes.is_official(desired)) if engine.cuda_probe else None
    logged = said_by_log(entry.model, log, computes(entry))
    if found := proven or logged:
        yield Drift("CUDA in its container", "works", found, cuda_hint(found))
    elif proven is None and logged is None:
        neither = f"{engine.name} has no program for it, nor a line in its log"
        what = untested(said) if engine.cuda_probe else neither
        warnings.warn(f"{entry.title}: CUDA was not tested: {what}.", stacklevel=1)


@on_models()
def test_bound(entry: Entry) -> Iterator[Drift]:
    """It is published where `bind` and `port` say, and nothing else listens on that port."""
    container, server = entry.container, entry.server
    expected = addresses.address_of(entry.observed), entry.model.port
    bindings = published(container) if container else {expected}
    if bindings != {expected} and container["HostConfig"]["NetworkMode"] != "host":
        found = ", ".join(place(*one) for one in sorted(bindings)) or "nowhere"
        yield Drift("published", place(*expected), found, recreate(entry))
    every = [Observed(name, server.spec, server.state) for name in server.spec.entries]
    of_all = {(addresses.address_of(one), one.entry.port) for one in every}
    for address, port, who in server.seen["listeners"]:
        if port == entry.model.port and (address, port) not in of_all | bindings:
            stranger = who or "a process"
            fix = f"stop {stranger} on {server.name}"
            yield Drift(f"port {port}", f"only {place(*expected)}", f"also {stranger} on {place(address, port)}", fix)


def place(address: str, port: int) -> str:
    """Return `127.0.0.1:8000`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@on_models(has_weights)
def test_weights(entry: Entry) -> Iterator[Drift]:
    """The weights exist, with the right size, unchanged since they were fetched or loaded.

    The container has the files that are on the host now.
    """
    for wanted in weights_of(entry.model):
        path = weights.place(entry.server.spec, wanted, entry.model.dockerd)
        found = entry.weights(path)
        fix = refetch(entry, wanted)
        if found is None:
            yield Drift(path, "weights", "nothing", fix)
            continue
        files = found["files"]
        locked = entry.locked
        for name, file in known(path, wanted, found["hub"], locked.weights).items():
            size, then = files.get(name, {}).get("size"), files.get(name, {}).get("then")
            if size is None or size != (file.size or size):
                expected = f"{file.size} bytes" if file.size else "a file"
                yield Drift(f"{path}, {name}", expected, f"{size} bytes" if size else "none", fix)
            elif file.sha256 and then and then[2] != file.sha256:
                yield Drift(
                    f"{path}, {name}", f"sha256 {file.sha256[:16]}…", f"{then[2][:16]}…, when it was hashed", fix
                )
        commit = (found["hub"] or {}).get("commit")
        pinned = pins.commits(locked, weights.host_path(entry.server.spec, entry.model)).get(path)
        if pinned and commit and commit != pinned:
            yield Drift(path, f"commit {pinned}, by the lock", str(commit))
        for name, file in files.items():
            yield from changed(f"{path}, {name}", file, entry, fix)
        if entry.mounted.get(path) is False:
            yield Drift(path, "the file that its container has", "a different file, put there later", recreate(entry))


def changed(what: str, file: Mapping[str, Any], entry: Entry, fix: str) -> Iterator[Drift]:
    """Yield how a file differs from the time when it was hashed (size and time, /var/lib/gpurack/sha256).

    A file that was never hashed must be older than the start of the model.
    """
    if file["then"]:
        size, time, _ = file["then"]
        if file["size"] != int(size):
            yield Drift(what, f"{size} bytes, as when it was checked", f"{file['size']} bytes", fix)
        elif abs(file["mtime"] - float(time)) > CLOCK:
            yield Drift(what, f"unchanged since {clock(float(time))}", f"changed {clock(file['mtime'])}", fix)
    elif entry.container and file["mtime"] > seconds(entry.container["State"]["StartedAt"]):
        yield Drift(what, "no change since its model started", f"changed {clock(file['mtime'])}", fix)


def clock(time: float) -> str:
    """Return a time in the time zone of the admin's machine."""
    return datetime.fromtimestamp(time).strftime("%Y-%m-%d %H:%M:%S")


def seconds(time: str) -> float:
    """Convert Docker's time, which has nine decimals, to seconds since 1970."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", time).replace("Z", "+00:00")).timestamp()


@pytest.mark.deep
@on_models(has_weights)
def test_weights_hashed(entry: Entry) -> Iterator[Drift]:
    """Every byte of the weights is right, as far as their sha256 is known."""
    drifts, unknown = [], []
    for wanted in weights_of(entry.model):
        path = weights.place(entry.server.spec, wanted, entry.model.dockerd)
        found = entry.weights(path) or {"files": {}, "hub": None}
        locked = entry.locked.weights
        expected = expected_hashes(known(path, wanted, found["hub"], locked), found["files"])
        unknown += [] if expected else [path]
        for name, (sha256, who) in expected.items():
            now = found["files"].get(name, {}).get("sha256", "no such file")
            if now != sha256:
                fix = refetch(entry, wanted)
                drifts.append(Drift(f"{path}, {name}", f"sha256 {sha256[:16]}…{who}", f"{now[:16]}…", fix))
    yield from drifts
    if unknown and not drifts:
        pytest.skip(
            f"{entry.title}: the sha256 of {', '.join(unknown)} is not known, so nothing was compared. "
            "Record it with: gpurack lock INVENTORY"
        )


def ready_answer(entry: Entry) -> tuple[int, str]:
    """Return the status and body of its answer to the readiness request."""
    code, body = entry.answers.get("ready", (0, f"nothing, its container is {status(entry)}"))
    return code, body


def answers(entry: Entry) -> Health:
    """Return what its answer to the readiness request means."""
    return judge(*ready_answer(entry), entry.observed.answers_as)


@on_models()
def test_ready(entry: Entry) -> Iterator[Drift]:
    """Its API answers, with its name if the engine names models. A gateway lists the models behind it only."""
    engine, model = ENGINES[entry.model.engine], entry.model
    code, body = ready_answer(entry)
    what = f"GET {engine.ready_at(model)}"
    match answers(entry):
        case Health.READY:
            if problem := failing(entry.observed):
                yield Drift("the last run's test request", "passed", problem.message.rstrip("."), restart(entry))
            if again := restarted(entry.observed):  # the next run tests it
                yield Drift("its container", "as at its last test", again)
        case Health.RENAMED:
            yield Drift(what, f'the name "{entry.observed.answers_as}"', body[:100], recreate(entry))
        case _:
            yield Drift(what, "HTTP 200", f"HTTP {code} {body[:100]}" if code else body, restart(entry))
    for name in model.pull if code == 200 else ():
        if json.dumps(full_name(name)) not in body:
            yield Drift("pulled models", name, "not among them")
    if "listed" in entry.answers:
        (code, body), behind = entry.answers["listed"], set(names_of(entry.name, entry.server.spec, model))
        if code != 200 or set(re.findall(r'"id"\s*:\s*"([^"]*)"', body)) != behind:
            yield Drift("GET /v1/models", ", ".join(sorted(behind)), f"HTTP {code} {body[:300]}", recreate(entry))


@on_models(takes_requests)
def test_answers(entry: Entry) -> Iterator[Drift]:
    """It answers one real request under its served name. One that sleeps is not asked."""
    model = entry.model
    if entry.answers.get("sleeps"):
        return
    code, body = entry.answers.get("answer", (0, "not asked, because it is not ready"))
    path = entry.answers.get("path", "")
    what = f"POST {path}".rstrip()
    if code != 200:
        yield Drift(what, "HTTP 200", f"HTTP {code} {body[:100]}" if code else body, restart(entry))
        return
    requests = dict(ENGINES[model.engine].requests(model, names_of(entry.name, entry.server.spec, model)))
    served = requests[path].get("model")
    named = re.search(r'"model"\s*:\s*("[^"]*")', body)
    if served is not None and named and named[1] != json.dumps(served):
        yield Drift(what, f'an answer of "{served}"', f"one of {named[1]}", recreate(entry))


@on_models(keyed)
def test_refuses_a_wrong_key(entry: Entry) -> Iterator[Drift]:
    """It answers neither a wrong key nor none."""
    for what in () if entry.answers.get("sleeps") else ("wrong key", "no key"):
        code = entry.answers.get(what)
        if code is None:
            yield Drift(f"a request with {what}", "refused", "not asked, because it is not ready", restart(entry))
        elif code not in REFUSED:
            yield Drift(f"a request with {what}", "HTTP 401", f"HTTP {code}" if code else "no answer", recreate(entry))


@on_models()
def test_files(entry: Entry) -> Iterator[Drift]:
    """Keys and engine configuration on the host match the inventory, and only its user can read them."""
    there = entry.server.seen["secrets"]["files"]
    for path, expected in entry.files.items():
        file = there.get(path)
        if file is None:
            yield Drift(path, "a file", "none")
            continue
        if file["mode"] != "400":
            yield Drift(path, "mode 400", f"mode {file['mode']}")
        if file["owner"] != (entry.model.dockerd or "root"):
            yield Drift(path, f"owner {entry.model.dockerd or 'root'}", f"owner {file['owner']}")
        if expected is not None and file["sum"] != expected:
            fix = f"{ssh(entry, sh('rm {}', path))}; {recreate(entry)}"
            yield Drift(path, "what the inventory has", "something else", fix)
