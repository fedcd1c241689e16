"""What a restart of Docker may leave undone: containers that it stopped, and a daemon.json that dockerd cannot load.

Both are noted on disk before the restart, so that the next run or the next boot finishes it after a kill. The note is
JSON: {"stopped": [container ids], "replaced": null, or {"path": daemon.json, "backup": its copy, "" where it was new}}.
Sent with daemon_json.py, run by the Docker stage (`record`, `finish`), and imported by boot.py (`finish`), always under
the lock of the host's Docker.
Runs on the host's own python3 (3.6 or newer, standard library only)."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

from paths import DOCKER_NOTE, RECORD, RESTART_MARKER, RUN  # (sent along)

NOTE = DOCKER_NOTE
OF_SYSTEMD = re.compile(r"^docker\.(service|socket): |^(Starting|Started|Stopping|Stopped|Failed to start) ")
EVERY = 5  # seconds between two messages while it waits
LIMIT = 30  # seconds for a question to dockerd
GRACE = 30  # seconds that a container may take to stop, unless it has its own (Compose's stop_grace_period)
MOST_GRACE = 600  # of its own
BEYOND_GRACE = 90  # seconds that `docker stop` of many containers may take beyond that
START_LIMIT = 120  # seconds for `docker start`
RESTART_LIMIT = 300  # seconds for a start of docker.service, whose unit often has no limit of its own


def run(*argv, limit=LIMIT):
    """Run a command; returns (exit code, output with errors). A program that takes longer is killed: code 124.

    Prints every few seconds what is waited for."""
    begun = time.monotonic()
    try:
        process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
    except FileNotFoundError:
        return 127, "{} is not installed".format(argv[0])
    while True:
        spent = time.monotonic() - begun
        try:
            output = process.communicate(timeout=max(0.01, min(EVERY, limit - spent)))[0]
            return process.returncode, output.decode("utf-8", "replace").strip()
        except subprocess.TimeoutExpired:
            spent = time.monotonic() - begun
            if spent >= limit:
                os.killpg(process.pid, signal.SIGKILL)
                process.stdout.close()
                return 124, "`{}` did not end within {} s".format(" ".join(argv[:3]), limit)
            with contextlib.suppress(OSError):  # a closed output (pyinfra was killed) must not end a restart half-way
                print("waiting for {}, {:.0f} of at most {} s".format(" ".join(argv[:3]), spent, limit), flush=True)


def note(stopped, replaced=None):
    """Note what a restart will stop and the file that it replaces."""
    replace(NOTE, json.dumps({"stopped": stopped, "replaced": replaced}).encode())


def noted():
    """The note of an unfinished restart, or None."""
    try:
        with open(NOTE, encoding="utf-8") as stream:
            found = json.load(stream)
        return {"stopped": list(found["stopped"]), "replaced": found["replaced"]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return {"stopped": [], "replaced": None}


def forget():
    if os.path.exists(NOTE):
        os.unlink(NOTE)
        sync_folder(NOTE)


def replace(path, content, mode=0o600):
    """Write a file beside its place, sync it, rename it, and sync the folder."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    beside = path + ".gpurack-new"
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.chmod(beside, mode)
    os.rename(beside, path)
    sync_folder(path)


def sync_folder(path):
    """Make a rename or removal of a path last through a power cut."""
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def put_back(replaced):
    """Put the previous daemon.json back, or remove the new one where there was none."""
    path = os.path.realpath(replaced["path"])
    if not replaced["backup"]:
        if os.path.exists(path):
            os.unlink(path)
            sync_folder(path)
        return
    beside = path + ".gpurack-new"
    shutil.copyfile(replaced["backup"], beside)
    attributes = os.stat(path if os.path.exists(path) else replaced["backup"])
    os.chmod(beside, attributes.st_mode & 0o7777)
    os.chown(beside, attributes.st_uid, attributes.st_gid)
    with open(beside, "rb") as stream:
        os.fsync(stream.fileno())
    os.rename(beside, path)
    sync_folder(path)


def running():
    """The ids of the containers that run."""
    code, output = run("docker", "ps", "--quiet", "--no-trunc")
    return [word for word in output.split() if len(word) == 64] if code == 0 else []


def stop(ids):
    """Stop containers side by side, each with its own grace period, at most MOST_GRACE, or else GRACE."""
    form = "{{.Id}} {{with .Config.StopTimeout}}{{.}}{{end}}"
    output = run("docker", "container", "inspect", "--format", form, *ids)[1]
    own = dict(re.findall(r"(?m)^([0-9a-f]{64}) ([0-9]{1,9})$", output))
    by_grace = {}
    for container in ids:
        by_grace.setdefault(min(int(own.get(container, GRACE)), MOST_GRACE), []).append(container)
    threads = [threading.Thread(target=stop_within, args=each) for each in by_grace.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def stop_within(grace, ids):
    """Stop containers, which are killed after `grace` seconds."""
    run("docker", "stop", "-t", str(grace), *ids, limit=grace + BEYOND_GRACE)


def restart(*manager):
    """Restart docker.service; returns "" or why it does not run. manager: options of systemctl for a user's unit."""
    # Debian's unit gives up at the fourth start within a minute.
    run("systemctl", *manager, "reset-failed", "docker.service", "docker.socket")
    code, output = run("systemctl", *manager, "restart", "docker.service", limit=RESTART_LIMIT)
    return output or "exit code {}".format(code) if code else ""


def last_lines(*manager):
    """What dockerd said last, for messages: its errors, without what systemd says of its unit."""
    output = run("journalctl", *manager, "-u", "docker.service", "-n", "60", "--no-pager", "-o", "cat")[1]
    lines = [line for line in output.split("\n") if line.strip() and not OF_SYSTEMD.search(line)]
    return [line for line in lines if "level=info" not in line][-4:] or lines[-4:]


def changing():
    """The ids of models' containers that a change under way replaces or creates: its run starts the right ones itself.

    One whose run was killed is not under way (files/claims.py)."""
    try:
        with open(RECORD, encoding="utf-8") as stream:
            changes = [change for change in json.load(stream)["replacing"] if is_held(change["batch"])]
        return {member.get(word) for change in changes for member in change["members"] for word in ("old_id", "new_id")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or an older one
        return set()


def is_held(batch):
    """Does a run work on a change now? It holds the change's file."""
    try:
        with open(os.path.join(RUN, "change." + batch)) as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def start_again(ids):
    """Start the containers that a restart stopped and that still exist. Returns the lines of those that failed."""
    failed = []
    up = {*running(), *changing()}
    for container in ids:
        if container in up or run("docker", "container", "inspect", container)[0]:
            continue
        code, output = run("docker", "start", container, limit=START_LIMIT)
        if code:
            failed.append("{}: {}".format(container[:12], output.split("\n")[-1]))
    return failed


def answers(seconds=60):
    """Whether dockerd answers within some seconds."""
    end = time.monotonic() + seconds
    while run("docker", "info", "--format", "{{.ServerVersion}}")[0]:
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def finish(*manager):
    """Finish what an interrupted restart left: Docker up, and the stopped containers running.

    If need be, Docker gets the previous daemon.json. Returns (lines for the admin, whether all is well).
    """
    left = noted()
    if left is None:
        return [], True
    said = []
    up = run("systemctl", *manager, "is-active", "docker.service")[1] == "active" or not restart(*manager)
    if not up and left["replaced"]:
        put_back(left["replaced"])
        said.append("an interrupted run left a daemon.json that dockerd cannot load; the previous one was put back")
        up = not restart(*manager)
    if not (up and answers()):
        return [*said, "Docker does not start: " + " / ".join(last_lines(*manager))], False
    failed = start_again(left["stopped"])
    if left["replaced"] and not said and os.path.exists(RESTART_MARKER):
        note([], left["replaced"])  # dockerd has not loaded the new file yet, so it may still have to go back
    else:
        forget()
    return [*said, *("could not start " + line for line in failed)], not failed


def main(what):
    if what == "record":
        left = noted() or {"stopped": [], "replaced": None}
        note(sorted({*left["stopped"], *running()}), left["replaced"])
        return
    lines, well = finish()
    for line in lines:
        sys.stdout.buffer.write((("" if well else "error ") + line + "\n").encode("utf-8", "replace"))
    sys.stdout.flush()
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    try:
        main(json.loads(JOB))  # noqa: F821 - put in front by gpurack
    except OSError as error:  # a full disk
        sys.exit("error restart of Docker: {}. Run again when that is corrected.".format(error.strerror or error))
