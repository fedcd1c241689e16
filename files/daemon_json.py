"""Writes the planned daemon.json and makes dockerd load it.

Runs on the host's python3: as root for the host's own Docker, as a user for that user's rootless one.

gpurack puts `JOB = "…"` (JSON; gpurack/plan/system/daemon_json.py: Apply) in front. Order: a marker, a backup,
the new file beside the old one, validated with the flags that dockerd will be started with, renamed; live-restore by
reload first; then reload or restart; then `docker info` must show what is expected. If dockerd does not start, the
previous file comes back and Docker with it. After a kill at any point the next run finds the marker and the note of
docker_restart.py, and continues.
"""

import contextlib
import errno
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import time

import docker_restart  # (sent along, as paths)
from docker_restart import run
from paths import BACKUPS, DAEMON_JSON, RESTART_MARKER, USER_RESTART_MARKER

PATH = DAEMON_JSON
MARKER = RESTART_MARKER
MANAGER = ()  # options of systemctl and journalctl for a user's units
TIMEOUT = 60
ROOM = 64 << 20  # bytes that must be free for Docker's data before it is restarted


def of_user():
    """Switch to this user's rootless Docker."""
    global PATH, MARKER, BACKUPS, MANAGER
    PATH = os.path.expanduser("~/.config/docker/daemon.json")
    MARKER = os.path.join(os.environ["XDG_RUNTIME_DIR"], USER_RESTART_MARKER)
    BACKUPS = os.path.expanduser("~/.local/state/gpurack")
    MANAGER = ("--user",)
    docker_restart.NOTE = os.path.join(BACKUPS, os.path.basename(docker_restart.NOTE))


def give_up(why):
    if MANAGER:  # the report shows whose Docker it is
        quoted = why.replace("\n    | ", "\n").replace("\n", "\n    | ")
        why = "error {}'s Docker: {}".format(os.environ["USER"], quoted)
    sys.stderr.buffer.write((why + "\n").encode("utf-8", "replace"))  # whatever the locale is
    sys.exit(1)


def patched(document, changes):
    """JSON Merge Patch (RFC 7396): null removes a key."""
    if not isinstance(changes, dict):
        return changes
    result = dict(document) if isinstance(document, dict) else {}
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = patched(result.get(key), value)
    return result


def current():
    if not os.path.exists(PATH):
        return {}
    with open(PATH, encoding="utf-8") as stream:
        return json.load(stream)


def runtimes_by_nvidia_ctk(document):
    """`nvidia-ctk runtime configure` truncates its file in place and wipes `features`, so it works on a copy."""
    with tempfile.TemporaryDirectory(prefix="gpurack-") as folder:
        copy = os.path.join(folder, "daemon.json")
        with open(copy, "w", encoding="utf-8") as stream:
            json.dump(document, stream)
        code, output = run("nvidia-ctk", "--quiet", "runtime", "configure", "--runtime=docker", "--config=" + copy)
        if code:
            give_up("nvidia-ctk runtime configure failed: " + output)
        with open(copy, encoding="utf-8") as stream:
            return json.load(stream)["runtimes"]


def write(document, owed):
    """Replace daemon.json. owed: did an earlier run not get as far as the restart?"""
    place = os.path.realpath(PATH)
    beside = place + ".gpurack-new"
    os.makedirs(os.path.dirname(place), mode=0o755, exist_ok=True)
    # Not readable by others in between: it may hold a proxy's password.
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        json.dump(document, stream, indent=4, ensure_ascii=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    if "--validate" in run("dockerd", "--help")[1]:
        code, output = run("dockerd", "--validate", *dockerd_flags(), "--config-file=" + beside)
        if code:
            os.unlink(beside)
            give_up("dockerd rejects the new daemon.json, so the old one was kept: " + output)
    kept = ""
    if os.path.exists(PATH):
        old = os.stat(PATH)
        kept = back_up(old)
        os.chmod(beside, old.st_mode & 0o7777)
        os.chown(beside, old.st_uid, old.st_gid)
    else:
        os.chmod(beside, 0o644)
    left = docker_restart.noted() or {"stopped": [], "replaced": None}
    # An unfinished run's file was never loaded: what is to come back is the one before it.
    replaced = left["replaced"] if owed and left["replaced"] else {"path": PATH, "backup": kept}
    docker_restart.note(left["stopped"], replaced)
    try:
        os.rename(beside, place)
    except OSError as error:
        os.unlink(beside)
        if error.errno != errno.EBUSY:
            raise
        if not owed:  # nothing is left for the next run
            docker_restart.forget()
            if os.path.exists(MARKER):
                os.unlink(MARKER)
        what = "{} is a mount of its own, so it cannot be replaced, and nothing was changed. Mount its folder instead, "
        give_up((what + "or unmount it: umount {}").format(place, place))
    docker_restart.sync_folder(place)


def dockerd_flags():
    """The flags that dockerd is started with, without `--config-file`.

    They are those of the unit with its variables resolved; where the unit starts a script, those of the running
    dockerd; none for a user's daemon, whose script chooses.
    """
    if MANAGER:
        return []
    properties = ("ExecStart", "Environment", "EnvironmentFiles", "MainPID")
    said = run("systemctl", "show", "docker.service", *("--property=" + name for name in properties))[1].split("\n")
    lines = "\n".join(line for line in said if line.startswith("ExecStart="))
    words = split((re.findall(r"argv\[\]=(.*?) ;", lines) or [""])[-1])
    if not words:
        return []
    if os.path.basename(words[0]) != "dockerd":
        return without_file(running_flags(next((line[8:] for line in said if line.startswith("MainPID=")), "0")))
    return without_file(resolved(words[1:], variables(said)))


def split(text):
    """The words of a line as systemd splits it; where its quotes do not match, by white space."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def variables(said):
    """The variables of a unit from `systemctl show`: of its files, which come last, over those of its lines."""
    found = {}
    for line in said:
        if line.startswith("Environment="):
            found.update(word.split("=", 1) for word in split(line.partition("=")[2]) if "=" in word)
    for line in said:
        if line.startswith("EnvironmentFiles="):
            path = re.sub(r" \(ignore_errors=\w+\)$", "", line.partition("=")[2])
            found.update(of_file(path))
    return found


def of_file(path):
    """The variables of an EnvironmentFile=, {} where it is missing."""
    if not os.path.isfile(path):
        return {}
    with open(path, encoding="utf-8", errors="replace") as stream:
        lines = stream.read().replace("\\\n", "").split("\n")
    pairs = [line.strip().split("=", 1) for line in lines if "=" in line and line.strip()[:1] not in "#;"]
    return {name.strip(): " ".join(split(value)) if value[:1] in "\"'" else value.strip() for name, value in pairs}


def resolved(words, known):
    """Words of ExecStart= with variables: `$NAME` becomes several words, `${NAME}` is replaced within its word."""
    flags = []
    for word in words:
        alone = re.match(r"\$(\w+)$", word)
        if alone:
            flags += split(known.get(alone.group(1), ""))
        else:
            flags.append(re.sub(r"\$\{(\w+)\}", lambda found: known.get(found.group(1), ""), word))
    return flags


def running_flags(pid):
    """The flags of the dockerd that is this process or its child; [] where none runs."""
    for place in os.listdir("/proc") if pid != "0" else ():
        try:
            with open("/proc/{}/stat".format(place), errors="replace") as stream:
                name, _, rest = stream.read().partition("(")[2].rpartition(")")
            if name != "dockerd" or pid not in (place, rest.split()[1]):
                continue
            with open("/proc/{}/cmdline".format(place), "rb") as stream:
                return stream.read().decode("utf-8", "replace").split("\0")[1:-1]
        except OSError:
            continue
    return []


def without_file(flags):
    """Flags without `--config-file`, because another file is validated, and without what keeps dockerd from that."""
    kept, skip = [], False
    for word in flags:
        if not skip and word != "--config-file" and not word.startswith("--config-file="):
            kept.append(word)
        skip = word == "--config-file"
    return kept


def back_up(old):
    """Back up the file, for its owner only from the first byte: it may hold a proxy's password.

    old: the file's status. Returns the path of the copy."""
    os.makedirs(BACKUPS, mode=0o700, exist_ok=True)
    os.chmod(BACKUPS, 0o700)  # older versions may have made it with 0755
    for name in os.listdir(BACKUPS):  # older versions kept the file's mode
        os.chmod(os.path.join(BACKUPS, name), 0o600)
    kept = os.path.join(BACKUPS, "daemon.json." + time.strftime("%Y%m%dT%H%M%S"))
    with open(PATH, "rb") as source, open(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as copy:
        shutil.copyfileobj(source, copy)
        copy.flush()
        os.fsync(copy.fileno())
    os.utime(kept, ns=(old.st_atime_ns, old.st_mtime_ns))
    docker_restart.sync_folder(kept)
    return kept


def info():
    code, output = run("docker", "info", "--format", "{{json .}}")
    # one line of JSON among the client's warnings; not splitlines, because a text in it may contain U+0085
    line = next((line for line in output.split("\n") if line.startswith("{")), "{}")
    try:
        # float: an int of a million digits keeps Python before 3.11 busy for minutes
        said = json.loads(line, parse_int=float) if code == 0 else {}
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def unmet(expected, found):
    missing = []
    if not found.get("ServerVersion"):
        return ["an answer"]
    if bool(found.get("LiveRestoreEnabled")) != expected["LiveRestoreEnabled"]:
        missing.append("live-restore")
    missing += ["runtime " + name for name in expected.get("Runtimes", ()) if name not in found.get("Runtimes", {})]
    if expected.get("CDISpecDirs") and not found.get("CDISpecDirs"):
        missing.append("CDI")
    return missing


def await_info(expected):
    """Wait until `docker info` shows what is expected; returns what is missing after a minute."""
    end = time.monotonic() + TIMEOUT
    while True:
        missing = unmet(expected, info())
        if not missing or time.monotonic() > end:
            return missing
        time.sleep(0.2)


def restart(live_restore, wanted):
    """live_restore: containers must outlive the restart. wanted: live-restore as the new daemon.json has it."""
    running = docker_restart.running()
    if running:
        require_room(info().get("DockerRootDir"))
    if live_restore and running and not info().get("LiveRestoreEnabled"):
        run("systemctl", *MANAGER, "reload", "docker.service")
        if await_info({"LiveRestoreEnabled": True}):
            give_up("Docker did not turn live-restore on, so it was not restarted: its containers would have stopped")
    if not wanted and running and info().get("LiveRestoreEnabled"):
        # dockerd with live-restore leaves its containers running. The next one, without it, stops them as an admin
        # would, and `unless-stopped` does not start them again (seen on 26.1).
        run("systemctl", *MANAGER, "reload", "docker.service")
        if await_info({"LiveRestoreEnabled": False}):
            give_up("Docker did not turn live-restore off, so it was not restarted: its containers would stay down")
    left = docker_restart.noted() or {"stopped": [], "replaced": None}
    if running and not live_restore:  # before anything stops: a kill may come at any moment
        docker_restart.note(sorted({*left["stopped"], *running}), left["replaced"])
    if wanted and not live_restore and running and info().get("LiveRestoreEnabled"):
        # A new data-root or bip: the next dockerd could not adopt what this one leaves running.
        docker_restart.stop(running)
    # A run that was killed after it wrote a drop-in of the unit leaves systemd with the old one.
    if run("systemctl", "show", "--property", "NeedDaemonReload", "--value", "docker.service")[1] == "yes":
        run("systemctl", "daemon-reload")
    why = docker_restart.restart(*MANAGER)
    if why:
        go_back(why)


def require_room(root):
    """Give up where Docker's data have little room.

    A dockerd that starts on a full disk loses containers, and the ports of those that run (seen with 28.5).
    """
    with contextlib.suppress(OSError, TypeError):  # an unknown root
        disk = os.statvfs(root)
        if disk.f_bavail * disk.f_frsize < ROOM:
            what = "Docker was not restarted: {} has less than {} MiB free, and it would lose containers. Make room"
            give_up(what.format(root, ROOM >> 20))


def go_back(why):
    """dockerd does not start: put the previous daemon.json back, start Docker and its containers, and give up."""
    said = docker_restart.last_lines(*MANAGER) or [why]
    left = docker_restart.noted() or {"stopped": [], "replaced": None}
    if not left["replaced"]:
        fail("Docker does not start, and daemon.json is unchanged", said)
    docker_restart.put_back(left["replaced"])
    did = "the previous one was put back" if left["replaced"]["backup"] else "it was removed, as there was none before"
    still = docker_restart.restart(*MANAGER) or ("" if docker_restart.answers() else "it does not answer")
    if still:
        fail("Docker does not start with the new daemon.json; {}, and it still does not start".format(did), said)
    failed = docker_restart.start_again(left["stopped"])
    docker_restart.forget()
    os.unlink(MARKER)  # what the restart was for is not in place
    runs = "and Docker runs again" + "".join(", but could not start " + line for line in failed)
    fail("Docker does not start with the new daemon.json, so {}, {}".format(did, runs), said)


def fail(what, lines):
    """Give up with an error and dockerd's own last lines."""
    give_up("\n    | ".join(["{}{}:".format("" if MANAGER else "error ", what), *lines]))


def gpu_driver_is_there():
    """Does Docker have a GPU driver?

    An empty image shows it without a registry: "could not select device driver" or "no such file" (/x)."""
    run("sh", "-c", "tar cT /dev/null | docker import - gpurack-probe:latest")
    output = run("docker", "run", "--rm", "--gpus", "all", "--network", "none", "gpurack-probe:latest", "/x")[1]
    run("docker", "image", "rm", "gpurack-probe:latest")
    return "could not select device driver" not in output


def main():
    job = json.loads(JOB)  # noqa: F821 - put in front by gpurack
    if job["of_user"]:
        of_user()
    try:
        apply(job)
    except OSError as error:  # a full disk
        why = "daemon.json: {}. Run again when that is corrected.".format(error.strerror or error)
        give_up(why if MANAGER else "error " + why)


def apply(job):
    os.umask(0o022)
    os.makedirs(os.path.dirname(MARKER), mode=0o700, exist_ok=True)
    owed = os.path.exists(MARKER)
    if job["action"]:
        with open(MARKER, "w") as marker:
            marker.write(job["action"] + "\n")
    if job["patch"] is not None:
        document = current()
        changed = patched(document, job["patch"])
        if job["configure_runtime"]:
            changed["runtimes"] = patched(changed["runtimes"], {"nvidia": runtimes_by_nvidia_ctk(document)["nvidia"]})
        write(changed, owed)
    if job["action"] == "restart":
        restart(job["live_restore"], job["expect"]["LiveRestoreEnabled"])
    elif job["action"] == "reload":
        run("systemctl", *MANAGER, "reload", "docker.service")
    missing = await_info(job["expect"])
    left = docker_restart.noted()
    if left and not missing:
        failed = docker_restart.start_again(left["stopped"])  # those that exist in a new data-root
        docker_restart.forget()
        if failed:
            fail("Docker restarted, but these containers, which ran before, do not start", failed)
    if missing:
        give_up(
            "Docker has read daemon.json, but `docker info` does not show {} after a minute.".format(", ".join(missing))
        )
    if job["probe_gpu"] and not gpu_driver_is_there():
        give_up(
            "Docker has no GPU driver after its restart (docker run --gpus all). Reinstall nvidia-container-toolkit."
        )
    if os.path.exists(MARKER):
        os.unlink(MARKER)


if __name__ == "__main__":
    main()
