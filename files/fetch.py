"""Downloads model weights: a file from a URL, or a repository of a hub as a folder. A part of models.py.

Downloads are resumed, checked, and only then renamed into place, so files in place are complete.
Runs on the host's own python3 (3.6 or newer, standard library only) and curl.
"""

import collections
import contextlib
import functools
import glob
import hashlib
import json
import os
import re
import sys
import threading
from urllib.parse import quote, urlsplit

import room
from download import Source, curl, locked, turn, with_token
from hashes import Growing, inspector, known_hash, reader, remember, remembered_hash, size_changed, size_now
from json_data import parsed
from messages import CertainFailure, Failure, TimeIsUp, say, size
from phases import FETCH, phase
from pieces import download_file
from programs import Child, run
from progress import Progress, reading, show_progress
from safe_paths import clean_folder, create, leftover, make_folder, read_file, remove, weak_spot
from writing import put_in_place  # (beside this file)

# --- one file --------------------------------------------------------------------------------------------------------


HEADER_LIMIT = 30  # seconds; files/weights_header.py ends after 10
FETCHING = collections.defaultdict(threading.Lock)


def lacks_weights(wanted):
    """Are weights missing, or of another commit than the lock's?"""
    return not os.path.exists(wanted["path"]) or left_behind(wanted)


def obtain(name, wanted, token=None, ahead=False):
    """Download weights once, also when two models use them. Raises Failure.

    wanted: made by gpurack/plan/models/weights.py (fetched). token: of the Hugging Face Hub. ahead: leave those that
    would replace present ones beside them, since a running model has these; a later call puts them in place."""
    with FETCHING[wanted["path"]]:
        if not lacks_weights(wanted):
            return
        if "copy" in wanted:  # the admin's machine copies it
            raise Failure(
                wanted.get("problem") or "{} was not copied; run again".format(wanted["copy"]), "file-not-copied"
            )
        if "url" in wanted:
            take_turn(name, wanted, lambda: fetch_file(name, wanted))
        else:
            take_turn(name, wanted, lambda: fetch_folder(name, hub_of(wanted, token), wanted, ahead))


def take_turn(name, wanted, fetch):
    """Fetch while no other run does, here or on another host, unless another run has done it meanwhile."""
    folder = os.path.dirname(wanted["path"])
    make_folder(folder)
    try:
        with locked(name, wanted["path"]):
            if lacks_weights(wanted):
                with turn(name, wanted.get("connections")), phase(FETCH):
                    fetch()
    except Failure:
        with contextlib.suppress(OSError):
            if "hub" in wanted:
                os.rmdir(folder)  # if nothing came into it: the hub's answer was refused
        raise


def hub_of(wanted, token):
    """The hub that weights come from."""
    return HuggingFace(wanted, token) if wanted["hub"] == "hf" else ModelScope(wanted)


def record_of(wanted, folder):
    """The path of the record of a hub's download, beside the folder, or beside the file that the engine is given."""
    return os.path.join(folder, wanted["file"]) + ".json" if "file" in wanted else folder + ".json"


def left_behind(wanted):
    """Is a hub's folder of another commit than the lock's?"""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        said = parsed(read_file(record_of(wanted, wanted["path"]), LARGEST_ANSWER).decode())
        return wanted.get("commit", "") not in ("", said["commit"])
    return False


def check_locked(name, locked, again, user="", read=True):
    """Raise Failure where weights differ from the lock.

    locked: file → sha256. again: how to restore the old ones. user: whose Docker uses them. read: is there time to read
    what others than root can change, for hours if they like? Not under a lock: there it must be as it was when it was
    read before."""
    progress = Progress(name)
    for file, sha256 in sorted(locked.items()):
        try:
            become = reader(file, user)
            tell = reading(progress, "checking the weights' sha256", functools.partial(size_now, file, become))
            if size_changed(file, sha256, become):
                found = "another one (its size changed)"
            elif read or not weak_spot(file):
                found = known_hash(file, tell, become)
            else:
                found = remembered_hash(file, become)
        except OSError as error:
            found = "unreadable ({})".format(error.strerror)
        if found is None:
            raise Failure(
                "{} changed after its sha256 was checked. Run gpurack again".format(file), "changed-meanwhile"
            )
        if found != sha256:
            what = "{} does not match the lock: its sha256 is {}, not {}. To restore the old one, {}; to accept the "
            what += "new one, gpurack lock INVENTORY {} --upgrade."
            raise Failure(what.format(file, found, sha256, again, name), "weights-do-not-match")


def roots_alone(paths):
    """Those of some paths that only root can change."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            found += [] if weak_spot(path) else [path]
    return found


def refuse_damaged(name, paths, user=""):
    """Raise CertainFailure where no engine can load weights, whatever their sha256: what is cut off, or no weights.

    Nothing is refused where the check gives no answer. user: whose Docker uses them. `inspector` says who reads
    them: where others than root can change them, not under a lock, because that may take as long as they like."""
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "weights_header.py")
    for path in paths:
        with show_progress(Progress(name), "reading the header of its weights"), contextlib.suppress(TimeIsUp, OSError):
            argv = [*inspector(path, user), sys.executable, "-B", program, "check"]
            code, output = run(*argv, text=path + "\n", limit=HEADER_LIMIT, what="the check of the weights")
            said = {} if code else parsed(output)
            found = said.get("damaged") if isinstance(said, dict) else ""
            if found:
                raise CertainFailure(
                    "its weights are damaged: {}. Fetch or copy {} again".format(found, path), "weights-damaged"
                )


def fetch_file(name, wanted):
    """Download to PATH.part, resuming an earlier try; rename it into place once its sha256 matches."""
    url, sha256, path = wanted["url"], wanted["sha256"], wanted["path"]
    part = path + ".part"
    growing, source = Growing(part), Source(url, None, wanted.get("rate"), wanted.get("connections"))
    total = remote_size(url)
    have = size_of(part)
    if total and have > total:  # of another file that was at this address
        os.unlink(part)
        have = 0
    room.require(os.path.dirname(path), path, (total or have) - have)
    if not (total and have == total):
        download_file(name, source, growing, total)
    say(name, "checking the weights' sha256") if os.path.getsize(part) > 10**9 else None
    found = checked(name, growing)
    if found != sha256 and have:  # what an earlier try left may be of another file
        say(name, "the part of {} that an earlier run left does not fit; fetching all of it".format(path))
        os.unlink(part)
        growing.restart()
        download_file(name, source, growing, total)
        found = checked(name, growing)
    if found != sha256:
        os.unlink(part)
        raise Failure(
            "the file downloaded from {} has sha256 {}, not {}, and was deleted. Either the file on the server changed "
            "or `sha256` in the inventory is wrong.".format(url.partition("?")[0], found, sha256),
            "weights-do-not-match",
        )
    finish(name, part, path)
    remember(path, found)


def finish(name, part, path):
    """Give a complete file its name. Its last gigabytes may not be on disk yet."""
    with show_progress(Progress(name), "writing the weights to disk"):
        put_in_place(part, path)


def size_of(part):
    """Bytes of a file that an earlier run left, or 0."""
    status = leftover(part)
    return status.st_size if status else 0


def remote_size(url):
    """Content-Length by HEAD; None where the server does not say, or refuses HEAD as signed addresses do."""
    code, output = run(*curl(url, "-sSfLI", "--max-time", "60"), limit=90, what="the weights' server")
    lengths = re.findall(r"(?im)^content-length:\s*(\d+)", "" if code else output)
    return int(lengths[-1]) if lengths else None


def checked(name, growing):
    """The sha256 of a file that came, with progress while the rest of it is read."""
    return growing.whole(reading(Progress(name), "checking the weights' sha256", lambda: size_now(growing.path)))


# --- a repository of a hub -------------------------------------------------------------------------------------------

REFUSED = (401, 403)
REQUEST_LIMIT = 240  # seconds; curl ends each of three tries after 60
LARGEST_ANSWER = 64 << 20  # bytes; a list of ten thousand files has 3 MB
FORMATS = (".json", ".safetensors", ".txt", ".model", ".tiktoken", ".py", ".jinja", ".spm", ".vocab", ".bpe")
PICKLED = (".bin", ".pth", ".pt")  # needed only where there are no safetensors
OTHERS = {"onnx", "openvino", "coreml", "flax", "tf", "original", "metal", "assets", "images", "runs", "logs"}
"""Folders with the same model for other programs, or without a model."""
TRAINING = re.compile(r"training_args|trainer_state|optimizer|scheduler|rng_state|scaler")


class Answer:
    """A hub's answer. onward: the target of its redirect, or ""."""

    def __init__(self, status, headers, body, onward):
        self.status, self.headers, self.body, self.onward = status, headers, body, onward

    def words(self):
        """The HTTP status with the hub's own error message, where it has one."""
        found = re.search(r"(?im)^x-error-message:\s*(\S.*?)\s*$", self.headers)
        if not found:
            found = re.search(r'"(?:error|Message)"\s*:\s*"([^"]{1,200})', self.body)
        return "HTTP {}{}".format(self.status, ": " + found.group(1).rstrip(".") if found else "")


def request(url, token, *options):
    """Send one request with curl. Redirects are not followed, so only this hub receives the token. Raises Failure."""
    options = ["-K", "-", "-sSi", "--suppress-connect-headers", "--retry", "2", "--max-time", "60", *options]
    argv, given = curl(url, *options, "-w", "\n%{http_code} %{redirect_url}"), with_token(token).decode()
    place = "{}://{}".format(*urlsplit(url)[:2])
    child = Child(argv, limit=REQUEST_LIMIT, text=given, what="the answer of " + place, apart=True, resumed=True)
    output = bytearray()
    for piece in child.output():
        output += piece
        if len(output) > LARGEST_ANSWER:
            raise Failure("{} sent an endless answer. Check `mirrors`".format(place), "download-failed")
    error = child.errors.strip().splitlines()[-1:] or ["curl failed"]
    if child.code:
        what = "{} is not reachable from this host: {}. Set a mirror in `mirrors`, or copy the weights to the host and "
        raise Failure((what + "set `weights` to their path.").format(place, error[0]), "download-failed")
    text, _, last = output.decode("utf-8", "replace").rpartition("\n")
    headers, _, body = text.rpartition("\r\n\r\n")
    status, _, onward = last.partition(" ")
    return Answer(int(status), headers, body, onward)


def follow(url, token, *options):
    """Follow redirects; returns (answer, its URL, token). The token is dropped when a redirect leaves the hub."""
    for _ in range(8):
        answer = request(url, token, *options)
        if not answer.onward:
            return answer, url, token
        elsewhere = urlsplit(answer.onward)[:2] != urlsplit(url)[:2]
        url, token = answer.onward, None if elsewhere else token
        if elsewhere and "-I" in options:  # a storage's signed address, which is good for one GET and no HEAD
            return answer, url, token
    raise Failure("{} redirects more than 8 times. Check `mirrors`".format(url), "download-failed")


class HuggingFace:
    """The Hub's API, as huggingface_hub uses it.

    Sources: hf_api.py (model_info with files_metadata), file_download.py (a HEAD whose redirect to storage is then
    fetched), utils/_http.py (X-Error-Code). Files in LFS have a sha256, others a size. Without a token a repository
    that does not exist is refused like a private one (401).
    """

    def __init__(self, wanted, token):
        self.repo, self.hub, self.token = wanted["repo"], wanted["endpoint"], token
        self.revision = wanted.get("commit") or wanted["revision"]  # the lock's, where the branch was then
        self.commit = None

    def listing(self):
        """Every file's name, size and sha256 (None: unknown). Raises Failure."""
        url = "{}/api/models/{}/revision/{}?blobs=true".format(self.hub, self.repo, quote(self.revision, safe=""))
        answer, _, _ = follow(url, self.token)
        if answer.status != 200:
            raise self.refusal(answer)
        data = parsed(answer.body) or {}
        self.commit = data["sha"]
        files = data["siblings"]
        return [(file["rfilename"], file.get("size"), (file.get("lfs") or {}).get("sha256")) for file in files]

    def source(self, file):
        """(URL to get a file from, the token for it)"""
        url = "{}/{}/resolve/{}/{}".format(self.hub, self.repo, self.commit, quote(file))
        answer, url, token = follow(url, self.token, "-I")
        if answer.status >= 400:
            raise self.refusal(answer)
        return url, token

    def refusal(self, answer):
        page = "{}/{}".format(self.hub, self.repo)
        if answer.status in REFUSED and self.token:
            what = "denies {} to this `hf_token` ({}). Request access at {} with its account, or use another token"
            what = what.format(self.repo, answer.words(), page)
        elif answer.status in REFUSED:
            what = "denies {} without a token ({}): it is gated, private or does not exist. Correct its name, or "
            what = (what + "accept its terms at {} and set `hf_token`").format(self.repo, answer.words(), page)
        elif answer.status == 404 and re.search(r"(?im)^x-error-code:\s*RevisionNotFound", answer.headers):
            what = "has no revision {} of {}. Correct `revision`, see {}/commits".format(self.revision, self.repo, page)
        elif answer.status == 404:
            what = "has no {} in revision {} ({}). Correct `hf` or `revision`, see {}"
            what = what.format(self.repo, self.revision, answer.words(), page)
        else:
            what = "cannot serve {} now ({}). Try again later, or set a mirror in `mirrors.huggingface`"
            what = what.format(self.repo, answer.words())
        return Failure("the Hub {} {}".format(self.hub, what), "hub-refused")


class ModelScope:
    """ModelScope's API, as its own client uses it; public repositories only.

    Sources: modelscope/hub/api.py (get_model_files), file_download.py (Sha256 is checked), utils/caching.py (a file's
    Revision is a commit).
    """

    def __init__(self, wanted):
        self.repo, self.hub = wanted["repo"], wanted["endpoint"]
        self.revision = wanted.get("commit") or wanted["revision"]
        self.commit = None

    def listing(self):
        """Every file's name, size and sha256 (None: unknown). Raises Failure."""
        url = "{}/api/v1/models/{}/repo/files?Revision={}&Recursive=true"
        answer, _, _ = follow(url.format(self.hub, self.repo, quote(self.revision, safe="")), None)
        data = parsed(answer.body if answer.status == 200 else "") or {}
        if data.get("Code") != 200:
            what = "ModelScope {} has no {} in revision {} ({}). Correct `modelscope` or `revision`, see {}/models/{}"
            raise Failure(
                what.format(self.hub, self.repo, self.revision, answer.words(), self.hub, self.repo), "hub-refused"
            )
        files = [file for file in data["Data"]["Files"] if file["Type"] != "tree"]
        self.commit = self.latest(data["Data"].get("LatestCommitter") or {}, files)
        return [(file["Path"], file.get("Size"), file.get("Sha256") or None) for file in files]

    def latest(self, said, files):
        """The current commit, or None where it is unknown.

        The answer has its first digits (its Id is often empty) and, for each file, the full commit that changed it."""
        start, known = said.get("ShortId"), [said.get("Id")] + [file.get("Revision") for file in files]
        whole = (commit for commit in known if commit and re.fullmatch("[0-9a-f]{40}", commit))
        return next((commit for commit in whole if start and commit.startswith(start)), None)

    def source(self, file):
        """(URL to get a file from, no token)"""
        revision = quote(self.revision, safe="")
        return "{}/models/{}/resolve/{}/{}".format(self.hub, self.repo, revision, quote(file)), None


def chosen_file(listed, file, repo):
    """The entries of one file of a repository, with all parts of a split file. Raises Failure where it is missing."""
    whole = re.sub(r"-\d{5}(-of-\d{5}\.gguf)$", r"\1", file)
    found = [each for each in listed if re.sub(r"-\d{5}(-of-\d{5}\.gguf)$", r"\1", each[0]) == whole]
    if not any(each[0] == file for each in found):
        there = [name for name, _, _ in listed if name.endswith(".gguf")]
        there = ", ".join(there[:12]) + (" …" if len(there) > 12 else "") or "no GGUF file"
        raise Failure("{} has no file {}. Correct `file`; it has {}".format(repo, file, there), "hub-refused")
    return found


def needed(listed):
    """The entries of a repository that engines read. Raises Failure where there are no weights."""
    files = [file for file in listed if not OTHERS & set(file[0].lower().split("/")[:-1])]
    safe = {os.path.dirname(name) for name, _, _ in files if name.endswith(".safetensors")}
    whole = "" in safe and any(re.match(r"model.*\.safetensors$", name) for name, _, _ in files)
    chosen = []
    for file in files:
        folder, base = os.path.split(file[0])
        if TRAINING.match(base) or (base.startswith("consolidated") and whole):  # the same weights once more
            continue
        pickled = base.endswith(PICKLED) and folder not in safe
        if pickled or base.endswith(FORMATS):
            chosen.append(file)
    if any(name.endswith((".safetensors",) + PICKLED) for name, _, _ in chosen):
        return chosen
    parts = [file for file in files if file[0].endswith(".gguf")]
    if not parts:
        raise Failure("the repository contains no weights. Check its name", "no-weights-in-repository")
    if len({re.sub(r"-\d{5}-of-\d{5}", "", name) for name, _, _ in parts}) > 1:
        raise Failure(
            'the repository contains {} GGUF models. Choose one: {{…, "file": "….gguf"}}'.format(len(parts)),
            "no-weights-in-repository",
        )
    return chosen + parts


def listing_of(hub):
    """A hub's list of files, checked; sets `commit` of the hub. Raises Failure for any invalid answer."""
    try:
        return checked_list(hub.hub, hub.listing(), hub.commit)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise Failure("{} does not answer like a hub. Check `mirrors`".format(hub.hub), "download-failed") from None


def checked_list(hub, listed, commit):
    """A hub's list of files, each a path below the repository's folder.

    Raises Failure for any other path, which root would write to; ValueError for an invalid list."""
    for name, count, sha256 in listed:
        inside = isinstance(name, str) and not {"", ".", ".."} & set(name.split("/"))
        if not inside or not name.isprintable() or max(map(len, name.encode().split(b"/"))) > LONGEST_NAME:
            what = "{} lists the file name {!r}, which is not a valid path; nothing was fetched"
            raise Failure(what.format(hub, name), "no-weights-in-repository")
        sized = count is None or (type(count) is int and count >= 0)
        if not sized or not (sha256 is None or re.fullmatch("[0-9a-f]{64}", sha256)):
            raise ValueError("size {!r}, sha256 {!r}".format(count, sha256))
    if commit is not None and not re.fullmatch("[0-9a-f]{7,64}", commit):
        raise ValueError("commit {!r}".format(commit))
    return listed


LONGEST_NAME = 240  # bytes; a file system takes 255, and ours end in .part meanwhile


def fetch_folder(name, hub, wanted, ahead=False):
    """Download a repository's needed files and rename the folder into place when it is complete. Raises Failure.

    PATH.json beside it records the commit and the files. ahead: as for `obtain`."""
    path = wanted["path"]
    listed = listing_of(hub)
    files = chosen_file(listed, wanted["file"], hub.repo) if "file" in wanted else needed(listed)
    files = agreed(hub, files, wanted)
    found = {"commit": hub.commit, "files": {file: {"size": count, "sha256": sha256} for file, count, sha256 in files}}
    make_folder(os.path.dirname(path))
    part = "{}.{}.part"
    part = part.format(path, hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:12])
    for other in glob.glob("{}.{}.part".format(glob.escape(path), "[0-9a-f]" * 12)):
        if other != part:  # of an older commit of the branch
            remove(other)
    clean_folder(part)
    sizes = [count for _, count, _ in files]
    total = sum(sizes) if None not in sizes else None
    before = sum(present(part, file) for file, _, _ in files)
    room.require(part, path, (total or before) - before)
    done = 0
    for file, count, sha256 in files:
        place = os.path.join(part, file)
        if not os.path.exists(place):
            make_folder(os.path.dirname(place))
            says = "the lock" if wanted.get("sha256") else "the list of " + hub.hub
            fetch_one(name, hub, file, place, count, sha256, total, done, says, wanted)
        done += os.path.getsize(place)
    if ahead and os.path.exists(path):
        return
    found.update((key, wanted[key]) for key in ("hub", "repo", "revision", "endpoint"))
    record = record_of(wanted, part) if "file" in wanted else path + ".json.new"
    with create(record) as stream:
        stream.write(json.dumps(found, indent=1, sort_keys=True) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    old = path + ".old.part"
    if os.path.exists(path):  # of another commit; running models keep its files open
        if os.path.lexists(old):
            remove(old)
        os.rename(path, old)
    if "file" not in wanted:
        put_in_place(record, path + ".json")
    put_in_place(part, path)
    if os.path.lexists(old):
        with contextlib.suppress(OSError):  # the next fetch, or prune
            remove(old)
    for file, _, sha256 in files:
        if sha256:  # checked above
            remember(os.path.join(path, file), sha256)
    commit = " at commit " + hub.commit if hub.commit else ""
    say(name, "fetched {}{}, {} in {} files".format(hub.repo, commit, size(done), len(files)))


def agreed(hub, files, wanted):
    """The files of the lock, each with its sha256; without a lock, all files.

    Raises Failure where the hub already lists another sha256."""
    locked = wanted.get("sha256")
    if not locked:
        return files
    names = {os.path.relpath(path, wanted["path"]): sha256 for path, sha256 in locked.items()}
    listed = {file: (count, sha256) for file, count, sha256 in files}
    for file, sha256 in sorted(names.items()):
        if file not in listed or listed[file][1] not in (None, sha256):
            what = "{} of {} has sha256 {} in the lock, but {} {}. Nothing was changed. {}"
            now = "lists sha256 " + listed[file][1] if file in listed else "does not list it any more"
            raise Failure(what.format(file, hub.repo, sha256, hub.hub, now, ACCEPT_NEW), "weights-do-not-match")
    return [(file, listed[file][0], sha256) for file, sha256 in sorted(names.items())]


ACCEPT_NEW = "To accept the current version: gpurack lock INVENTORY MODEL --upgrade"


def present(part, file):
    """Bytes of a file that exist already."""
    for place in (os.path.join(part, file), os.path.join(part, file) + ".part"):
        with contextlib.suppress(OSError):
            return os.path.getsize(place)
    return 0


def fetch_one(name, hub, file, place, count, sha256, total, before, says, wanted):
    """Download one file of a repository to PLACE.part, resumed; check and rename it. Raises Failure.

    says: the source of its size and sha256, for the message."""
    part = place + ".part"
    growing = Growing(part)
    have = size_of(part) if os.path.lexists(part) else -1
    if count is not None and have > count:
        os.unlink(part)
    if count == 0:  # curl creates no file for an empty one
        create(part).close()
    elif count is None or have != count:
        url, token = hub.source(file)
        source = Source(url, token, wanted.get("rate"), wanted.get("connections"))
        download_file(name, source, growing, count, before, total)
    have = os.path.getsize(part)
    found = checked(name, growing) if sha256 else None
    if found != sha256 or (count is not None and have != count):
        os.unlink(part)
        what = "{} of {} does not match {} ({}, not {}) and was deleted. Run again; if it happens again, check the "
        what += "mirror"
        differ = ("sha256 " + found, sha256) if sha256 else (size(have), size(count))
        raise Failure(what.format(file, hub.repo, says, *differ), "weights-do-not-match")
    finish(name, part, place)
