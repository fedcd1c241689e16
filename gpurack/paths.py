"""Where things of ours lie on a host, and what they are called there.

The programs of files/ read it as well: files/paths.py is a link to it, which goes to hosts beside the runner and in
front of what is sent. So it imports nothing, and Python 3.6 can run it.
"""

CONFIG = "/etc/gpurack"
LIB = "/usr/local/lib/gpurack"
RUNNER = f"{LIB}/models.py"
_PARTS = (
    "paths",  # first: the others read it, also where a run was killed between two files
    *("asking", "boot", "common", "dockerd", "fetch", "hashes", "images", "jobs", "ollama", "record", "remedies"),
    *("request", "safe_paths"),
)
RUNNER_PARTS = tuple(f"{LIB}/{name}.py" for name in _PARTS)
"""What the runner imports."""
BOOT_UNIT = "/etc/systemd/system/gpurack.service"
STATE = "/var/lib/gpurack"
BACKUPS = f"{STATE}/backups"
RECORD = f"{STATE}/record.json"
"""Which containers are gpurack's, by id (files/record.py)."""
JOBS = f"{STATE}/jobs"
"""What jobs printed, and the records of those that are done."""
USERS = f"{STATE}/users"
"""Of users' rootless Dockers. Not in /etc, where a rootless daemon does not see a folder made after its start."""
REPLACED = f"{STATE}/replaced"
"""The restart policies of containers made by hand that models replaced."""
SET_ASIDE = "-replaced"
"""The end of the names that such containers have meanwhile."""
PROJECT, JOBS_PROJECT = "gpurack", "gpurack-jobs"
"""What Compose calls the models of a Docker, and the jobs."""
USER_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/share/docker.io/contrib"
"""PATH of what runs as a user; in the last folder Debian's and Ubuntu's docker.io
have the scripts of rootless Docker."""
RUN = "/run/gpurack"
RESTART_MARKER = f"{RUN}/docker-restart"
"""Written before a change that dockerd must load, removed once it has. A reboot also restarts dockerd."""
USER_RESTART_MARKER = "gpurack-docker-restart"
"""The same for a user's daemon, in the folder of that user's sockets."""
LOCK = f"{RUN}/lock"
"""Of the host's own Docker, and of the host itself."""
BUSY = f"{RUN}/busy"
"""Says who holds the lock, while it is held."""
DAEMON_JSON = "/etc/docker/daemon.json"
DOCKER_PROXY = "/etc/systemd/system/docker.service.d/gpurack-proxy.conf"
DNF_CONF = "/etc/dnf/dnf.conf"
YUM_CONF = "/etc/yum.conf"
APT_PROXY = "/etc/apt/apt.conf.d/80gpurack-proxy"
DRIVER_HELD = f"{STATE}/driver-held"
"""The packages of NVIDIA's driver that gpurack held."""
TRUSTED = f"{STATE}/trusted"
"""The certificates of ours that the trust store was made with."""
DOCKERD_ROOTLESS = "/usr/local/libexec/gpurack/dockerd-rootless"
"""What users' daemons are started by; it stays when models are removed."""
HOOK_CONFIG = "/etc/nvidia-container-runtime/config.toml"
CDI_FOLDERS = ("/etc/cdi", "/run/cdi")
KEYRINGS = "/etc/apt/keyrings"
APT_SOURCES = "/etc/apt/sources.list.d"


def project(user: str) -> str:
    """The folder of the Compose project in a user's rootless Docker; "" means the host's own Docker."""
    return f"{USERS}/{user}" if user else CONFIG


def of_user(path: str, user: str) -> str:
    """The lock of a user's Docker, or the file that says who holds it; "" for the host's own."""
    return f"{path}.{user}" if user else path


def words_of_user(user: str, uid: int, gid: int, home: str) -> "list[str]":
    """The words before a command that make it this user's own, with an empty environment: a Docker client runs programs
    that the user's configuration names."""
    runtime = f"/run/user/{uid}"
    environment = {
        "HOME": home,
        "USER": user,
        "PATH": USER_PATH,
        "XDG_RUNTIME_DIR": runtime,
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={runtime}/bus",
        "DOCKER_HOST": f"unix://{runtime}/docker.sock",
    }
    words = ["setpriv", "--reuid", str(uid), "--regid", str(gid), "--init-groups", "env", "-i"]
    return words + [f"{key}={value}" for key, value in environment.items()]


def compose_file(user: str) -> str:
    """Its compose.yaml."""
    return f"{project(user)}/compose.yaml"


def container_file(user: str, name: str, file: str) -> str:
    """A file that a container mounts: a key, or its engine's configuration. The folder of all is for root alone."""
    return f"{project(user)}/secrets/{name}/{file}"


def job_file(name: str) -> str:
    """The Compose file of a job."""
    return f"{CONFIG}/jobs/{name}.yaml"


def job_record(name: str) -> str:
    """Says that a job is done, with the hash of its definition."""
    return f"{JOBS}/{name}.json"


def job_log(name: str) -> str:
    """What a job printed, when it ran last."""
    return f"{JOBS}/{name}.log"


RPM_KEYS = "/etc/pki/rpm-gpg"
YUM_REPOS = "/etc/yum.repos.d"
RPM_TRANSACTION = f"{STATE}/rpm-transaction"
"""When an rpm transaction of ours began (seconds since 1970) and of which packages; away when it has ended."""
