"""Whether images and weights fit on their file systems, before they are fetched. A part of models.py.

The registry says how large an image's layers are, compressed. Docker needs at least that for those that it lacks, so
less room certainly does not suffice; the same room may not either. What one run fetches is added up, as each may fit
alone.
Runs on the host's own python3 (3.6 or newer, standard library only), as root; what is in a user's Docker is asked as
that user.
"""

import os
import platform
import re
import shutil
import threading

import processes
from image_ref import split
from json_data import parsed
from messages import NoRoom, TimeIsUp, size
from programs import run
from progress import Progress, show_progress  # (beside this file)

ANSWER = 20  # seconds for a registry, or for a user's file system
ENOUGH = 64 * 10**9  # bytes; no known image is larger, so its registry, which may count questions, is not asked
MOST = 1000  # layers
OWN_STORE = "image/{}/distribution/diffid-by-digest/sha256"
"""Below Docker's folder: a file for each layer that was pulled (Moby, distribution/metadata/v2_metadata_service.go)."""
CONTENT = "io.containerd.content.v1.content/blobs/sha256"
"""Below containerd's folder: each layer as it was pulled (containerd, docs/content-flow.md)."""
CONTAINERD = "/var/lib/containerd"
CONTAINERD_TOML = "/etc/containerd/config.toml"
CONTAINERD_OF_DOCKER = "containerd/daemon"
"""Below Docker's folder: that of the containerd that dockerd starts itself, as a rootless one does (Moby,
libcontainerd/supervisor)."""
TWICE = 1.9
"""containerd keeps the layers as they were pulled, and also unpacked, which is at least as large."""
DRIVER = re.compile(r"[a-z0-9-]+\Z")
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
STORES = (
    'for folder do if [ -d "$folder" ]; then stat -L -c %d -- "$folder"; stat -f -c "%a %S" -- "$folder"; '
    'echo "$folder"; ls -- "$folder"; exit; fi; done'
)
"""Prints of the first folder that exists: the number of its file system, its free blocks and their size, its path, and
the names in it."""
LOCK = threading.Lock()
PROMISED = {}
"""File system → (its free bytes when this run first asked, thing → bytes that this run fetches for it)."""


class Store:
    """Where a daemon has its images.

    disk: the file system, told apart by users, who say which it is. free: bytes. layers: the digests of those that it
    has. times: how often it needs the size of a layer, at least.
    """

    def __init__(self, folder, disk, free, layers, times):
        self.folder, self.disk, self.free, self.layers, self.times = folder, disk, free, layers, times


def require(folder, what, needed):
    """Raise NoRoom where weights do not fit into a folder, with what else this run fetches to its file system.

    what: their path. needed: bytes."""
    free = shutil.disk_usage(folder).free
    others = promise(("", os.stat(folder).st_dev), what, needed, free)
    if others is not None:
        text = "weights need {} more, but {} has {}. Set `weights_dir`, or remove what nothing uses: gpurack prune "
        raise NoRoom((text + "INVENTORY --yes").format(size(needed), folder, free_text(free, others)), folder)


def refuse_pull(dockerd, name, reference, options):
    """Raise NoRoom where an image certainly does not fit, with what else this run fetches to its file system.

    Nothing is refused without an answer.

    options: of docker, for logins."""
    store = store_of(dockerd)
    if store is None or store.free - sum(promised(store.disk).values()) >= ENOUGH:
        return
    with show_progress(Progress(name), "reading the size of its image"):
        layers = layers_of(dockerd, options, reference)
    needed = int(store.times * sum(count for layer, count in layers.items() if layer not in store.layers))
    others = promise(store.disk, reference, needed, store.free)
    if others is not None:
        what = "image {} needs at least {} more, but {} has {}, so it was not pulled. Remove what nothing uses: "
        text = (what + "gpurack prune INVENTORY --yes").format(
            reference, size(needed), store.folder, free_text(store.free, others)
        )
        raise NoRoom(text, store.folder, dockerd.user)


def free_text(free, others):
    """Bytes that are free, and how many of them other downloads of this run get."""
    return "{} free".format(size(free)) + (
        ", and other downloads of this run need {} of it".format(size(others)) if others else ""
    )


def promised(disk):
    """thing → bytes of what this run fetches to a file system."""
    with LOCK:
        return dict(PROMISED.get(disk, (0, {}))[1])


def promise(disk, what, needed, free):
    """Note that this run fetches something. Returns None, or where it does not fit the bytes of all else.

    needed, free: bytes, now. What was promised may be written already, so that as much less is free: then what was free
    at first decides."""
    with LOCK:
        first, things = PROMISED.setdefault(disk, (free, {}))
        others = sum(count for thing, count in things.items() if thing != what)
        if needed > free or needed + others > max(first, free):
            return others
        things[what] = needed
        return None


def store_of(dockerd):
    """Where a daemon has its images; None where that is unknown."""
    code, output = dockerd.run("info", "--format", "{{.Driver}}|{{.DockerRootDir}}|{{json .DriverStatus}}")
    driver, _, rest = output.strip().partition("|")
    root, _, status = rest.partition("|")
    if code or not DRIVER.match(driver) or not root.startswith("/"):
        return None
    if "io.containerd.snapshotter" in status:
        roots = [os.path.join(root, CONTAINERD_OF_DOCKER), *([] if dockerd.user else [containerds_root()])]
        return None if driver != "overlayfs" else seen(dockerd, roots, CONTENT, TWICE)
    return seen(dockerd, [root], OWN_STORE.format(driver), 1)


def seen(dockerd, roots, below, times):
    """The store in the first of these folders that has one, as the daemon's user sees it; None without an answer.

    below: where the layers are in it."""
    folders = {os.path.join(root, below): root for root in roots}
    try:
        code, output = run(*dockerd.become, "sh", "-c", STORES, "sh", *folders, limit=ANSWER, what="the file system")
    except TimeIsUp:
        return None
    found = re.match(r"(\d{1,19})\n(\d{1,19}) (\d{1,19})\n(/.*)\n?", output)
    if code or not found:
        return None
    disk, blocks, block = (int(found.group(number)) for number in (1, 2, 3))
    root, layers = folders.get(found.group(4)), set(output[found.end() :].split())
    return root and Store(root, (dockerd.user, disk), blocks * block, layers, times)


def containerds_root():
    """The folder of the host's containerd."""
    try:
        with open(CONTAINERD_TOML, encoding="utf-8", errors="replace") as stream:
            found = re.search(r"""(?m)^root\s*=\s*["'](/[^"']*)["']""", stream.read())
    except OSError:
        found = None
    return found.group(1) if found else CONTAINERD


def layers_of(dockerd, options, reference):
    """Digest → bytes of an image's layers at its registry, for this machine; empty where it gives no valid answer."""
    found = manifest(dockerd, options, reference)
    if isinstance(found.get("manifests"), list):
        wanted = {"os": "linux", "architecture": MACHINES.get(platform.machine(), "")}
        mine = [one["digest"] for one in found["manifests"] if is_for(one, wanted)]
        found = manifest(dockerd, options, "{}@{}".format(split(reference)[0], mine[0])) if mine else {}
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
