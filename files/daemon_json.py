"""Writes the planned daemon.json and makes dockerd load it. Runs on the host's python3: as root for the host's own
Docker, as a user for that user's rootless one.

gpurack puts `JOB = "…"` (JSON; gpurack/plan/system/daemon_json.py: Apply) in front. Order: a marker, a backup,
the new file beside the old one, validated, renamed; live-restore by reload first; then reload or restart; then
`docker info` must show what is expected. After a kill at any point the next run finds the marker and continues.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

from paths import BACKUPS, DAEMON_JSON, RESTART_MARKER, USER_RESTART_MARKER  # (sent along)

PATH = DAEMON_JSON
MARKER = RESTART_MARKER
MANAGER = ()  # options of systemctl and journalctl for a user's units
TIMEOUT = 60


def of_user():
    """Switch to this user's rootless Docker."""
    global PATH, MARKER, BACKUPS, MANAGER
    PATH = os.path.expanduser("~/.config/docker/daemon.json")
    MARKER = os.path.join(os.environ["XDG_RUNTIME_DIR"], USER_RESTART_MARKER)
    BACKUPS = os.path.expanduser("~/.local/state/gpurack")
    MANAGER = ("--user",)


def run(*argv):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()


def give_up(why):
    if MANAGER:  # the report shows whose Docker it is
        why = "error {}'s Docker: {}".format(os.environ["USER"], why.replace("\n", "\n    | "))
    sys.stderr.write(why + "\n")
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


def write(document):
    place = os.path.realpath(PATH)
    beside = place + ".gpurack-new"
    os.makedirs(os.path.dirname(place), exist_ok=True)
    # Not readable by others in between: it may hold a proxy's password.
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        json.dump(document, stream, indent=4, ensure_ascii=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    if "--validate" in run("dockerd", "--help")[1]:
        code, output = run("dockerd", "--validate", "--config-file=" + beside)
        if code:
            os.unlink(beside)
            give_up("dockerd rejects the new daemon.json, so the old one was kept: " + output)
    if os.path.exists(PATH):
        old = os.stat(PATH)
        back_up(old)
        os.chmod(beside, old.st_mode & 0o7777)
        os.chown(beside, old.st_uid, old.st_gid)
    else:
        os.chmod(beside, 0o644)
    os.rename(beside, place)


def back_up(old):
    """Back up the file, for its owner only from the first byte: it may hold a proxy's password. old: its status."""
    os.makedirs(BACKUPS, mode=0o700, exist_ok=True)
    os.chmod(BACKUPS, 0o700)
    for name in os.listdir(BACKUPS):  # older versions kept the file's mode
        os.chmod(os.path.join(BACKUPS, name), 0o600)
    kept = os.path.join(BACKUPS, "daemon.json." + time.strftime("%Y%m%dT%H%M%S"))
    with open(PATH, "rb") as source, open(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as copy:
        shutil.copyfileobj(source, copy)
    os.utime(kept, ns=(old.st_atime_ns, old.st_mtime_ns))


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
    running = run("docker", "ps", "--format", "{{.Names}}")[1].split()
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
    stopped = []
    if wanted and not live_restore and running and info().get("LiveRestoreEnabled"):
        # A new data-root or bip: the next dockerd could not adopt what this one leaves running.
        stopped = running
        run("docker", "stop", "--time", "30", *stopped)
    # A run that was killed after it wrote a drop-in of the unit leaves systemd with the old one.
    if run("systemctl", "show", "--property", "NeedDaemonReload", "--value", "docker.service")[1] == "yes":
        run("systemctl", "daemon-reload")
    # Debian's unit gives up at the fourth start within a minute.
    run("systemctl", *MANAGER, "reset-failed", "docker.service", "docker.socket")
    code, output = run("systemctl", *MANAGER, "restart", "docker.service")
    if code:
        log = run("journalctl", *MANAGER, "-u", "docker.service", "-n", "8", "--no-pager", "-o", "cat")[1]
        give_up("Docker does not start: {}\n{}\nThe previous file is in {}.".format(output, log, BACKUPS))
    for name in stopped:  # those that exist in the new data-root
        run("docker", "start", name)


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
    os.makedirs(os.path.dirname(MARKER), exist_ok=True)
    if job["action"]:
        with open(MARKER, "w") as marker:
            marker.write(job["action"] + "\n")
    if job["patch"] is not None:
        document = current()
        changed = patched(document, job["patch"])
        if job["configure_runtime"]:
            changed["runtimes"] = patched(changed["runtimes"], {"nvidia": runtimes_by_nvidia_ctk(document)["nvidia"]})
        write(changed)
    if job["action"] == "restart":
        restart(job["live_restore"], job["expect"]["LiveRestoreEnabled"])
    elif job["action"] == "reload":
        run("systemctl", *MANAGER, "reload", "docker.service")
    missing = await_info(job["expect"])
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
