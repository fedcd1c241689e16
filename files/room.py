"""Whether an image fits on Docker's disk, before it is pulled. A part of models.py.

The registry says how large its layers are, compressed. Docker needs at least that for those that it lacks, so less room
certainly does not suffice; the same room may not either. Runs on the host's own python3 (3.6 or newer, standard library
only), as root.
"""

import os
import platform
import re
import shutil

import processes
from common import NoRoom, Progress, TimeIsUp, parsed, show_progress, size  # (beside this file)

ANSWER = 20  # seconds for a registry
ENOUGH = 64 * 10**9  # bytes; no known image is larger, so its registry, which may count questions, is not asked
MOST = 1000  # layers
LAYERS = "image/overlay2/distribution/diffid-by-digest/sha256"
"""Below Docker's folder: a file for each layer that was pulled (Moby, distribution/metadata/v2_metadata_service.go)."""
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def refuse_pull(dockerd, name, reference, options):
    """Raise NoRoom where an image certainly does not fit. Nothing is refused without an answer, nor in a user's Docker,
    into whose folders root does not look.

    options: of docker, for logins."""
    root = None if dockerd.user else root_of(dockerd)
    if root is None:
        return
    free = shutil.disk_usage(root).free
    if free >= ENOUGH:
        return
    with show_progress(Progress(name), "reading the size of its image"):
        layers = layers_of(dockerd, options, reference)
    more = sum(count for layer, count in layers.items() if not os.path.exists(os.path.join(root, LAYERS, layer)))
    if more > free:
        what = "image {} needs at least {} more, but {} has {} free, so it was not pulled. Remove what nothing uses: "
        raise NoRoom((what + "gpurack prune INVENTORY --yes").format(reference, size(more), root, size(free)))


def root_of(dockerd):
    """The folder of the host's own Docker, where its images are; None for a store that is elsewhere (containerd's)."""
    code, output = dockerd.run("info", "--format", "{{.Driver}} {{.DockerRootDir}}")
    driver, _, root = output.strip().partition(" ")
    return root if code == 0 and driver == "overlay2" and os.path.isdir(os.path.join(root, LAYERS)) else None


def layers_of(dockerd, options, reference):
    """Digest → bytes of an image's layers at its registry, for this machine; empty where it gives no valid answer."""
    found = manifest(dockerd, options, reference)
    if isinstance(found.get("manifests"), list):
        wanted = {"os": "linux", "architecture": MACHINES.get(platform.machine(), "")}
        mine = [one["digest"] for one in found["manifests"] if is_for(one, wanted)]
        name = reference.partition("@")[0]
        repository = name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name
        found = manifest(dockerd, options, "{}@{}".format(repository, mine[0])) if mine else {}
    layers = found.get("layers")
    known = layers[:MOST] if isinstance(layers, list) else []
    return {one["digest"][len("sha256:") :]: one["size"] for one in known if is_layer(one)}


def manifest(dockerd, options, reference):
    """What a registry says of a reference, as a map."""
    words = ("buildx", "imagetools", "inspect", "--raw", reference)
    try:
        code, output = processes.docker(dockerd, *options, *words, limit=ANSWER)
    except TimeIsUp:
        return {}
    found = None if code else parsed(output)
    return found if isinstance(found, dict) else {}


def is_for(one, wanted):
    """Is an entry of an image's list for this platform, and valid?"""
    there = one.get("platform") if isinstance(one, dict) else None
    return isinstance(there, dict) and wanted.items() <= there.items() and is_digest(one.get("digest"))


def is_layer(one):
    return isinstance(one, dict) and is_digest(one.get("digest")) and type(one.get("size")) is int and one["size"] >= 0


def is_digest(text):
    return isinstance(text, str) and re.match(r"sha256:[0-9a-f]{64}\Z", text) is not None
