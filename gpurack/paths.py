"""Paths and names of gpurack's files on hosts.

The programs of files/ use it also: files/paths.py is a link to it, which is installed beside the runner and sent before
other programs. So it imports nothing, and Python 3.6 can run it.
"""

CONFIG = "/etc/gpurack"
LIB = "/usr/local/lib/gpurack"
RUNNER = f"{LIB}/models.py"
_PARTS = [
    "accounts", "applying", "asking", "base_images", "boot", "changes", "claims", "compose_yaml", "cuda_faults",
    "databases", "docker_commands", "docker_restart", "dockerd", "download", "error_hints", "fetch", "finishing",
    "hashes", "image_ref", "images", "jobs", "json_data", "kept_logs", "leftovers", "listening", "loading", "locks",
    "members", "messages", "ollama", "paths", "phases", "pieces", "ports", "preparing", "probing", "processes",
    "programs", "progress", "project", "proof", "record", "record_rebuild", "recovering", "replacing", "request",
    "room", "safe_paths", "sqlite_copy", "starting", "stopping", "umask_and_path", "undoing", "weights_header",
    "writing",
]  # fmt: skip
RUNNER_PARTS = tuple(f"{LIB}/{name}.py" for name in _PARTS)
"""The modules that the runner imports, and weights_header, which it runs as a program of its own."""
BOOT_UNIT = "/etc/systemd/system/gpurack.service"
STATE = "/var/lib/gpurack"
BACKUPS = f"{STATE}/backups"
RECORD = f"{STATE}/record.json"
"""The ids of the containers that gpurack manages (files/record.py)."""
JOBS = f"{STATE}/jobs"
"""Output of jobs, and records of finished jobs."""
LOGS = f"{STATE}/logs"
"""Logs of models that failed, and of those that were replaced."""
LOG_DAYS = 14
"""How long they are kept."""
LOG_AGE = "/etc/tmpfiles.d/gpurack-logs.conf"
"""Lets systemd, which cleans up once a day, remove them then: a run may not come."""
DATABASES = f"{STATE}/databases"
"""Copies of services' databases, made before their version changed."""
USERS = f"{STATE}/users"
"""Projects of users' rootless Dockers. Not in /etc: a rootless daemon does not see folders made after its start."""
SERVES_AGAIN, NEW_SERVES = "serves again since", "the new one serves, but"
"""What an error of the runner says of the container that serves. A run counts such an entry as ready
(gpurack/operations/output.py)."""
SET_ASIDE = "-replaced"
"""Suffix of the names of replaced containers."""
PREVIOUS = ".previous"
"""Suffix of the name of a container whose successor is being tried."""
PROJECT, JOBS_PROJECT = "gpurack", "gpurack-jobs"
"""The Compose projects of models and of jobs."""
COMPOSE = "com.docker.compose."
"""Prefix of the labels of Compose."""
MODEL_LABEL, JOB_LABEL, PROBE_LABEL = "gpurack.model", "gpurack.job", "gpurack.probe"
"""Labels of containers: a model's definition, a job's, and where the host asks whether a model is ready. Shell programs
spell them out; a test compares."""
CUDA_LABEL = "gpurack.cuda"
"""The label of a container that proves CUDA or arguments for some seconds (files/probing.py): the change for which it
does."""
DATABASE_LABEL = "gpurack.database"
"""The same of a container that copies or restores a database (files/databases.py)."""
USER_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/share/docker.io/contrib"
"""PATH of programs that run as a user. The last folder has the scripts of rootless Docker in Debian's and Ubuntu's
docker.io."""
RUN = "/run/gpurack"
RESTART_MARKER = f"{RUN}/docker-restart"
"""Written before a change that dockerd must load, removed once it has. A reboot also restarts dockerd."""
DOCKER_NOTE = f"{STATE}/docker-restart.json"
"""What an unfinished restart of Docker stopped and replaced (files/docker_restart.py)."""
USER_RESTART_MARKER = "gpurack-docker-restart"
"""The same for a user's daemon, in the folder of that user's sockets."""
LOCK = f"{RUN}/lock"
"""The lock of the host and of its own Docker."""
BUSY = f"{RUN}/busy"
"""Says who holds the lock while it is held."""
DAEMON_JSON = "/etc/docker/daemon.json"
DOCKER_PROXY = "/etc/systemd/system/docker.service.d/gpurack-proxy.conf"
DNF_CONF = "/etc/dnf/dnf.conf"
YUM_CONF = "/etc/yum.conf"
APT_PROXY = "/etc/apt/apt.conf.d/80gpurack-proxy"
DRIVER_HELD = f"{STATE}/driver-held"
"""Packages of NVIDIA's driver that gpurack put on hold."""
HELD = f"{STATE}/held"
"""Packages of Docker and of NVIDIA's toolkit that gpurack put on hold, one a line."""
TRUSTED = f"{STATE}/trusted"
"""gpurack's certificates that the trust store was built with."""
DOCKERD_ROOTLESS = "/usr/local/libexec/gpurack/dockerd-rootless"
"""Starts users' daemons. It stays when models are removed."""
HOOK_CONFIG = "/etc/nvidia-container-runtime/config.toml"
CDI_FOLDERS = ("/etc/cdi", "/run/cdi")
CDI_REFRESHED, CDI_LASTING = "/var/run/cdi/nvidia.yaml", "/etc/cdi/nvidia.yaml"
"""CDI specs of NVIDIA's GPUs: the first comes before the second, which stays over a reboot."""
KEYRINGS = "/etc/apt/keyrings"
APT_SOURCES = "/etc/apt/sources.list.d"


def project(user: str) -> str:
    """The folder of the Compose project of a user's rootless Docker; user "" means the host's own Docker."""
    return f"{USERS}/{user}" if user else CONFIG


def of_user(path: str, user: str) -> str:
    """`LOCK` or `BUSY` of a user's Docker; user "" means the host's own."""
    return f"{path}.{user}" if user else path


def words_of_user(user: str, uid: int, gid: int, home: str) -> "list[str]":
    """The words before a command that run it as this user with an empty environment.

    Needed because a Docker client runs programs that the user's configuration names.
    """
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
    """The compose.yaml of a user's Docker; user "" means the host's own."""
    return f"{project(user)}/compose.yaml"


def container_file(user: str, name: str, file: str) -> str:
    """A file that a container mounts: a key or its engine's configuration. Only root can read the folder above."""
    return f"{project(user)}/secrets/{name}/{file}"


def kept_log(user: str, name: str, kind: str) -> str:
    """The kept log of a model: kind "failed" or "previous". user: whose Docker it is in, "" for the host's own."""
    return f"{LOGS}/{user or '_'}/{name}.{kind}.log"


def kept_database(user: str, name: str, file: str) -> str:
    """A kept copy of a service's database. user: whose Docker it is in, "" for the host's own."""
    return f"{DATABASES}/{user or '_'}/{name}/{file}"


def job_file(name: str) -> str:
    """The Compose file of a job."""
    return f"{CONFIG}/jobs/{name}.yaml"


def job_record(name: str) -> str:
    """The record of a finished job, with the hash of its definition."""
    return f"{JOBS}/{name}.json"


def job_log(name: str) -> str:
    """The output of a job's last run."""
    return f"{JOBS}/{name}.log"


RPM_KEYS = "/etc/pki/rpm-gpg"
YUM_REPOS = "/etc/yum.repos.d"
RPM_TRANSACTION = f"{STATE}/rpm-transaction"
"""Start (seconds since 1970) and packages of gpurack's rpm transaction; removed at its end."""
