"""What nothing uses any more on a host. Sent there with what it imports (gpurack/commands/prune.py).

gpurack puts `JOB = "…"` (JSON) in front: {"users": whose Dockers, "" for the host's own, "weights_dir", "weights":
paths and "images": [[user, reference]] that the inventory names, "remove": remove it, in each Docker under its lock}.
Prints a JSON object for each thing: {"kind", "user", "what", "size": bytes or null, "stays": why it is not
removed, "removed", "error", and its "code"}. Only what gpurack brought to the host is listed:

    image      that a run pulled, loaded or built (`images` in the host's record); not under another name
    weights    in weights_dir, with gpurack's own record or the sha256 that a run computed
    download   the same, unfinished
    files      keys and configuration of containers that are gone
    build      checkouts of builds that failed; images to load that were not
    volume     anonymous ones of containers that a run removed (`volumes` in the host's record)
    docker     not a thing: why a Docker could not be asked. Then no weights are listed

Users' Dockers come first, each under its own lock alone: the host's is not held while they are waited for. The
definitions that can be brought back (`ready` in the record) count as use. Runs on the host's own python3 (3.6 or
newer, standard library only).
"""

import contextlib
import glob
import itertools
import json
import os
import re
import sys

import claims
import record
import room
from dockerd import Dockerd
from download import is_held
from hashes import remembered
from images import BUILDS
from json_data import parsed
from locks import locked
from messages import Failure, TimeIsUp, code_of, describe_error
from programs import run
from safe_paths import read_file, remove, require_roots, weak_spot

NETWORK = re.compile(r"(nfs|cifs|smb|ceph|lustre|gluster|beegfs|gpfs|afs|9p|sshfs|fuse\.)")
FETCHED = re.compile(r"[0-9a-f]{16}-")
HUBS = ("hf", "modelscope")
PATIENCE = 60  # seconds to measure a volume
IN_DOCKER = ("image", "volume")
MOST = 1000  # containers of a user, whose Docker may list any number


def freeable(job, folder, user=""):
    """How many bytes `gpurack prune` would free where something does not fit, as far as they are known.

    None where a Docker does not answer.

    job: as above, without "remove". folder: on that file system. user: in whose Docker it does not fit, "" for the
    host's own and for weights."""
    found = []
    main(dict(job, remove=False), lambda things, remove: found.extend(things))
    if any(one["kind"] == "docker" for one in found):
        return None
    store = None if user else room.store_of(Dockerd())
    return sum(one["size"] or 0 for one in found if not one["stays"] and is_there(one, folder, user, store))


def is_there(one, folder, user, store):
    """Would the removal of a thing free bytes on the file system of a folder, or in the Docker of a user?

    store: of the host's own Docker, as of room.store_of."""
    if one["kind"] in IN_DOCKER:
        return one["user"] == user and (bool(user) or (store is not None and on_one_disk(store.folder, folder)))
    return not user and on_one_disk(one["what"], folder)


def on_one_disk(path, other):
    """Are two paths on one file system? False where one is missing."""
    try:
        return os.lstat(path).st_dev == os.stat(other).st_dev
    except OSError:
        return False


def main(job, done=None):
    """done: what is done with the things that one Docker has, by default `carry_out`."""
    used, answered, done = {}, True, done or carry_out
    for user in sorted(job["users"], reverse=True):  # "", the host's own, is the last
        with contextlib.ExitStack() as held:
            if job["remove"]:
                held.enter_context(locked("prune", [user]))
            known = record.load() or record.whole({"containers": {}})
            try:
                dockerd = Dockerd(user)
                containers = containers_of(dockerd)
                used.update((mount, one["name"]) for one in containers for mount in one["mounts"])
                found = images(dockerd, containers, known, job["images"])
                found += definitions(dockerd, containers, known)
                found += volumes(dockerd, known)
            except Exception as error:  # whatever one Docker says, the others are asked
                done(
                    [dict(item("docker", "", None, None, user), error=describe_error(error), code=code_of(error))],
                    False,
                )
                found, answered = [], False  # mounts of containers that are not known could be any
            if not user and answered:
                found += weights(job, used, known) + builds(job["weights_dir"])
            done(found, job["remove"])
    return 0


def carry_out(found, remove):
    """Print all things; remove those that do not stay, if that is wanted."""
    for one in found:
        act = one.pop("act")
        if remove and not one["stays"]:
            try:
                act()
                one["removed"] = True
            except Exception as error:  # whatever comes of one, the others are removed
                one["error"], one["code"] = describe_error(error), code_of(error)
        tell(one)


def tell(item):
    sys.stdout.buffer.write((json.dumps(item) + "\n").encode("ascii"))
    sys.stdout.buffer.flush()


def item(kind, what, size, act, user="", stays=""):
    """One thing that nothing uses. act: removes it. stays: why it is not removed."""
    return {"kind": kind, "user": user, "what": what, "size": size, "stays": stays, "act": act}


# --- in a Docker ------------------------------------------------------------------------------------------------------


def containers_of(dockerd):
    """name, image id and mounted paths of all containers, whosever they are. Raises Failure."""
    ids = dockerd.must("ps", "--all", "--quiet", "--no-trunc").split()
    if not all(record.is_id(one) for one in ids):
        raise Failure("{} ps printed no valid answer".format(dockerd.by_hand), "docker-command-failed")
    if dockerd.user and len(ids) > MOST:
        raise Failure(
            "it lists {} containers; at most {} of a user are inspected".format(len(ids), MOST), "docker-command-failed"
        )
    form = '{"name":{{json .Name}},"image":{{json .Image}},"mounts":{{json .Mounts}}}'
    found = []
    for begin in range(0, len(ids), 100):
        for line in dockerd.must("container", "inspect", "--format", form, *ids[begin : begin + 100]).splitlines():
            one = parsed(line)
            mounts = one.get("mounts") if isinstance(one, dict) else None
            if not isinstance(mounts, list) or not all(isinstance(mount, dict) for mount in mounts):
                raise Failure(
                    "{} container inspect printed no valid answer".format(dockerd.by_hand), "docker-command-failed"
                )
            paths = [str(mount.get("Source", "")) for mount in mounts]
            found.append({"name": str(one.get("name")).lstrip("/"), "image": str(one.get("image")), "mounts": paths})
    return found


def images(dockerd, containers, known, named):
    """Images of runs of gpurack that no container, no definition that was ready and no entry of the inventory needs."""
    used = {one["image"] for one in containers}
    used.update(one.get("id") for names in known["ready"].values() for all_ in names.values() for one in all_)
    wanted = {reference for user, reference in named if user == dockerd.user}
    found = []
    for image, names in sorted(known["images"].get(dockerd.user, {}).items()):
        there = described(dockerd, image)
        if there is None or image in used or wanted.intersection(there["tags"] + list(names)):
            continue
        if not set(there["tags"]) <= set(names):  # somebody else named it, so it is theirs as well
            continue
        what = (there["tags"] or list(names) or [image])[0]
        found.append(item("image", what, there["size"], remover(dockerd, image, there["tags"]), dockerd.user))
    return found


def described(dockerd, image):
    """size and tags of an image; None where the daemon does not have it."""
    if not record.is_image_id(image):
        return None
    form = '{"size":{{json .Size}},"tags":{{json .RepoTags}}}'
    code, output = dockerd.run("image", "inspect", "--format", form, image)
    found = parsed(output) if code == 0 else None
    if not isinstance(found, dict):
        return None
    tags = found.get("tags") if isinstance(found.get("tags"), list) else []
    size = found.get("size")
    return {
        "size": size if type(size) is int and size >= 0 else None,
        "tags": [tag for tag in tags if isinstance(tag, str)],
    }


def remover(dockerd, image, tags):
    """What removes an image, without force: Docker refuses while something uses it."""

    def act():
        for tag in tags:
            dockerd.must("image", "rm", tag)
        if described(dockerd, image) is not None:
            dockerd.must("image", "rm", image)
        record.forget_part("images", dockerd.user, image)

    return act


def definitions(dockerd, containers, known):
    """Folders with files of containers that are gone: neither compose.yaml, the record nor a container has them."""
    mounted = "\n".join(mount for one in containers for mount in one["mounts"])
    text = ""
    with contextlib.suppress(OSError), open(dockerd.compose_file, encoding="utf-8", errors="replace") as stream:
        text = stream.read()
    entries = known["containers"].get(dockerd.user, {})
    keys = {str(entry.get("service") or name) for name, entry in entries.items()}
    for change in known["replacing"]:
        keys.update(member.get(word) for member in change["members"] for word in ("old_key", "new_key"))
    theirs, found = record.keys_of_changes(known["replacing"], dockerd.user), []
    for key in dockerd.keys_with_files():
        folder = os.path.join(dockerd.secrets, key)
        inside = folder + "/"
        if (
            key not in keys
            and not theirs.match(key)
            and inside not in mounted
            and inside not in text
            and os.path.isdir(folder)
        ):
            found.append(item("files", folder, size_of(folder), removal(folder), dockerd.user))
    return found


def volumes(dockerd, known):
    """Anonymous volumes of containers that a run removed."""
    noted = known["volumes"].get(dockerd.user, {})
    if not noted:
        return []
    unused = set(dockerd.must("volume", "ls", "--quiet", "--filter", "dangling=true").split())
    found = []
    for volume, name in sorted(noted.items()):
        if volume in unused and record.is_id(volume):

            def act(volume=volume):
                dockerd.must("volume", "rm", volume)
                record.forget_part("volumes", dockerd.user, volume)

            what = "{} (of {})".format(volume[:12], name)
            found.append(item("volume", what, size_of_volume(dockerd, volume), act, dockerd.user))
    return found


def size_of_volume(dockerd, volume):
    """Bytes; None in a user's Docker, whose folders root does not enter."""
    if dockerd.user:
        return None
    code, place = dockerd.run("volume", "inspect", "--format", "{{.Mountpoint}}", volume)
    with contextlib.suppress(TimeIsUp):
        code, output = run("du", "-sxk", "--", place, limit=PATIENCE) if not code else (1, "")
        first = output.split("\t")[0]
        return int(first) * 1024 if not code and first.isdigit() else None
    return None


# --- in folders -------------------------------------------------------------------------------------------------------


def weights(job, used, known):
    """Fetched weights that neither the inventory, a container nor a definition that was ready has.

    used: path → the container that mounts it."""
    wanted = {os.path.normpath(path) for path in [*job["weights"], *used, *of_ready(known)] if path}
    above = {path for path in wanted if is_in(job["weights_dir"], path)}
    mounted = {path: used[path] for path in above if path in used and path != "/"}
    stays = why_all_stay(job["weights_dir"], mounted, known)
    shas = {path: sha256 for path, (_, sha256) in remembered().items()}
    found = []
    for place in places(job["weights_dir"]):
        if weak_spot(place):  # root fetches nothing into it; FIFOs, or more files than can be listed, may be there
            continue
        for path in fetched(place, shas):
            base = re.sub(r"(\.[0-9a-f]{12})?\.(part|lock)$", "", path)
            if any(is_in(base, other) or is_in(other, base) for other in wanted - above):
                continue
            if is_held(base):  # a run downloads it now
                continue
            kind = "weights" if base == path else "download"
            found.append(item(kind, path, size_of(path), removal(path, path + ".json"), stays=stays))
    return found


def why_all_stay(folder, mounted, known):
    """Why no weights are removed from a folder, "" where they may be. mounted: path of it or above → container."""
    begun = [change for change in known["replacing"] if change["members"] or claims.is_alive(change)]
    changing = sorted({name for change in begun for _, name in record.entries(change)})
    if changing:
        return "a change of {} is under way, which may use it".format(", ".join(changing))
    network = on_network(folder)
    if network:
        return "on a network file system ({}), where other hosts may use it".format(network)
    for path, name in sorted(mounted.items()):
        return "the container {} mounts {}, so it may use it".format(name, path)
    return ""


def is_in(path, folder):
    """Is a path a folder or in it?"""
    return path == folder or path.startswith(folder + "/")


def of_ready(known):
    """The weights of definitions that can be brought back: paths in their labels."""
    for names in known["ready"].values():
        for all_ in names.values():
            for one in all_:
                label = parsed(one.get("label", ""))
                if isinstance(label, dict):
                    yield from texts(label)


def texts(data):
    """All texts of data that are absolute paths."""
    if isinstance(data, dict):
        data = list(data.values())
    if isinstance(data, list):
        for each in data:
            yield from texts(each)
    elif isinstance(data, str) and data.startswith("/"):
        yield data


def places(weights_dir):
    """The folders with fetched weights: the host's own, and one of each user."""
    yield weights_dir
    users = os.path.join(weights_dir, "users")
    for user in sorted(os.listdir(users)) if os.path.isdir(users) else ():
        yield os.path.join(users, user)


def fetched(place, shas):
    """Paths in a folder that gpurack brought there. shas: path → sha256 that a run computed."""
    for name in sorted(os.listdir(place)) if os.path.isdir(place) else ():
        path = os.path.join(place, name)
        known = name.endswith(".part") or shas.get(path, "").startswith(name[:16])
        if FETCHED.match(name) and known and os.path.isfile(path) and not os.path.islink(path):
            yield path
    for hub in HUBS:
        for path in sorted(glob.glob(os.path.join(glob.escape(place), hub, "*@*"))):
            if os.path.isdir(path) and not os.path.islink(path) and (path.endswith(".part") or of_hub(path, hub)):
                yield path
    for path in sorted(glob.glob(os.path.join(glob.escape(place), "copy", "*"))):
        if FETCHED.match(os.path.basename(path)) and not os.path.islink(path):
            yield path


def of_hub(folder, hub):
    """Has a folder gpurack's record of a download, beside it or in it?"""
    inside = (path for path in files_below(folder) if path.endswith(".json"))
    for path in [folder + ".json", *itertools.islice(inside, 200)]:
        with contextlib.suppress(OSError, ValueError):
            said = parsed(read_file(path, 2**22).decode("utf-8"))
            if isinstance(said, dict) and {"commit", "files", "repo"} <= set(said) and said.get("hub") == hub:
                return True
    return False


def builds(weights_dir):
    """Checkouts of failed builds, and images that were copied and not loaded."""
    paths = sorted(glob.glob(os.path.join(BUILDS, "*")))
    paths += sorted(glob.glob(os.path.join(glob.escape(weights_dir), "images", "*.tar*")))
    return [item("build", path, size_of(path), removal(path)) for path in paths if not os.path.islink(path)]


def on_network(path):
    """The type of the network file system that a path is on, "" for others."""
    path, best, kind = os.path.realpath(path), "", ""
    with open("/proc/mounts", encoding="utf-8", errors="replace") as stream:
        for line in stream:
            words = line.split(" ")
            at = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code.group(1), 8)), words[1])
            if (at == "/" or is_in(path, at)) and len(at) >= len(best):
                best, kind = at, words[2]
    return kind if NETWORK.match(kind) else ""


def size_of(path):
    """Bytes of a file or folder, as far as it can be read."""
    if not os.path.isdir(path) or os.path.islink(path):
        return os.lstat(path).st_size
    sizes = [0]
    for file in files_below(path):
        with contextlib.suppress(OSError):
            sizes.append(os.lstat(file).st_size)
    return sum(sizes)


def files_below(folder):
    """The files below a folder.

    Without recursion, as os.walk needs it before Python 3.12: a checkout may have folders nested more than a thousand
    deep.
    """
    pending = [folder]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    yield entry.path


def removal(path, *beside):
    """What removes a path in folders of root's, and files beside it."""

    def act():
        require_roots(os.path.dirname(path))
        remove(path)
        for other in beside:
            if os.path.lexists(other):
                remove(other)

    return act


if __name__ == "__main__":
    sys.exit(main(json.loads(JOB)))  # noqa: F821 - put in front by gpurack
