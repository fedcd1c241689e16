"""Sets up one user's rootless Docker, with what gpurack adds to its unit. Runs as that user on the host's python3.

gpurack puts `JOB = "…"` (JSON; gpurack/plan/system/rootless.py: SetUp) in front. Docker's own
dockerd-rootless-setuptool.sh does the work; it can run again. A marker requests the final restart, which
daemon_json.py does.
"""

import json
import os
import subprocess
import sys

from paths import USER_RESTART_MARKER  # (sent along)

HOME, RUNTIME = os.environ["HOME"], os.environ["XDG_RUNTIME_DIR"]
UNIT = os.path.join(HOME, ".config/systemd/user/docker.service")
MARKER = os.path.join(RUNTIME, USER_RESTART_MARKER)
TOOL = "dockerd-rootless-setuptool.sh"
WITHOUT_IPTABLES = " --iptables=false"


def run(*argv):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=HOME)
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()


def give_up(why):
    sys.stderr.write("error {}\n".format(why))
    sys.exit(1)


def write(path, text):
    """Replace a file atomically; None removes it."""
    if text is None:
        if os.path.exists(path):
            os.unlink(path)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    beside = path + ".gpurack-new"
    with open(beside, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(beside, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def install():
    """Run the tool. Without the kernel module ip_tables it insists on no iptables, and containers reach no network.

    Where iptables works anyway (nf_tables), the daemon keeps using it."""
    run("systemctl", "--user", "reset-failed", "docker.service")
    code, output = run(TOOL, "install", "--force")
    if code and "--skip-iptables" in output:
        code, output = run(TOOL, "install", "--force", "--skip-iptables")
        if run("unshare", "--map-root-user", "--net", "iptables", "-t", "nat", "-nL")[0] == 0:
            with open(UNIT, encoding="utf-8") as stream:
                write(UNIT, stream.read().replace(WITHOUT_IPTABLES, ""))
            run("systemctl", "--user", "daemon-reload")
    if code and run("docker", "info")[0] == 0:
        code = finish()
    if code:
        lines = [line for line in output.splitlines() if line.strip()]
        log = run("journalctl", "--user", "--unit", "docker.service", "-n", "8", "--no-pager", "-o", "cat")[1]
        quoted = "".join("\n    | " + line for line in lines[-6:] + log.splitlines())
        give_up("cannot set up rootless Docker for {}. {} printed:{}".format(os.environ["USER"], TOOL, quoted))


def finish():
    """Do the tool's last steps.

    Debian's (docker.io 26.1) searches docker beside itself and aborts before them, with the daemon running.
    """
    code = run("systemctl", "--user", "enable", "docker.service")[0]
    if run("docker", "context", "inspect", "rootless")[0]:
        run("docker", "context", "create", "rootless", "--docker", "host=" + os.environ["DOCKER_HOST"])
    run("docker", "context", "use", "rootless")
    return code


def main():
    job = json.loads(JOB)  # noqa: F821 - put in front by gpurack
    with open(MARKER, "w") as marker:
        marker.write("restart\n")
    for name, text in sorted(job["files"].items()):
        write(os.path.join(HOME, name), text)
    run("systemctl", "--user", "daemon-reload")
    install()


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        give_up("cannot set up rootless Docker for {}: {}".format(os.environ["USER"], error))
