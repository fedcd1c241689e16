"""Parse `docker run …` to a ContainerRun.

The options are those of Docker 28's `docker run --help`, and common ones of podman-run(1) 5.
"""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from gpurack.importing.container import ContainerRun, Finding
from gpurack.importing.recognise import engine_of
from gpurack.importing.service import Unreadable, container

SHARED_NETWORK = "gpurack's containers share one network and reach each other by name"
OWN_PULLS = "gpurack pulls an image when the inventory changes it"
FLAGS = """
    d/detach i/interactive q/quiet t/tty disable-content-trust sig-proxy P/publish-all replace rm use-api-socket
    init= no-healthcheck=healthcheck.disable oom-kill-disable= privileged= read-only=
"""
LISTS = """
    a/attach expose blkio-weight-device device-read-bps device-read-iops device-write-bps device-write-iops
    hooks-dir link-local-ip mount net-alias/network-alias requires secret volumes-from
    add-host=extra_hosts annotation=annotations cap-add= cap-drop= device=devices device-cgroup-rule=device_cgroup_rules
    dns= dns-option/dns-opt= dns-search= env-file= e/env=environment group-add= l/label=labels label-file= link=links
    log-opt=logging.options p/publish=ports security-opt= storage-opt= sysctl=sysctls tmpfs= ulimit=ulimits
    v/volume=volumes
"""
SINGLE = """
    arch authfile blkio-weight cgroups cidfile conmon-pidfile cpuset-mems detach-keys health-on-failure image-volume ip
    ip6 kernel-memory net/network pidfile pod pull sdnotify systemd tls-verify volume-driver
    cgroup-parent= cgroupns=cgroup cpu-period= cpu-quota= cpu-rt-period= cpu-rt-runtime= c/cpu-shares= cpus=
    cpuset-cpus=cpuset domainname= entrypoint= gpus= health-cmd=healthcheck.test
    health-interval=healthcheck.interval health-retries=healthcheck.retries
    health-start-interval=healthcheck.start_interval health-start-period=healthcheck.start_period
    health-timeout=healthcheck.timeout h/hostname= ipc= isolation= log-driver=logging.driver mac-address=
    m/memory=mem_limit memory-reservation=mem_reservation memory-swap=memswap_limit memory-swappiness=mem_swappiness
    name=container_name oom-score-adj= pid= pids-limit= platform= restart= runtime= shm-size= stop-signal=
    stop-timeout=stop_grace_period u/user= userns=userns_mode uts= w/workdir=working_dir
"""
"""Options, as `short/long=field of Compose`; `long=` has its own name there. Without `=`, Compose has no such field."""
NO_MEANING = {
    "attach", "detach-keys", "sig-proxy", "quiet", "disable-content-trust", "expose", "cidfile", "tty", "interactive",
    "detach", "replace", "authfile", "pidfile", "conmon-pidfile", "tls-verify",
}  # fmt: skip
"""Options that only concern the caller, or have no effect."""
PODMAN_USERS = ("keep-id", "auto", "nomap")
"""User namespaces that Docker does not have."""
LEFT_OUT = {
    "pull": OWN_PULLS, "rm": "gpurack removes its containers itself", "publish-all": "`port` sets the published port",
}  # fmt: skip
BEFORE = ("sudo", "nohup", "exec", "eval", "time", "env", "timeout", "command")
"""Programs that start the one behind them and their options."""
OLD_DOCKER = "nvidia-docker"
"""The wrapper for `docker --runtime nvidia`, older than `--gpus`."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Unreadable(
            without_values(re.sub("the following arguments are required: image.*", "it has no image", message))
        )


def without_values(message: str) -> str:
    """argparse's message without the values of options, which may be secrets.

    >>> without_values("unrecognized arguments: --api-key=abc --x")
    'unrecognized arguments: --api-key=…'
    """
    return re.sub(r"(=|explicit argument ).*", r"\1…", message, flags=re.DOTALL)


def parser_of(flags: str, lists: str, single: str) -> argparse.ArgumentParser:
    """A parser of options, each with its names as in `s/long`, that raises Unreadable. An absent list is empty."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    for options, settings in ((flags, {"action": "store_true"}), (lists, {"action": "append", "default": []}),
                              (single, {})):  # fmt: skip
        for option in options.split():
            names = option.partition("=")[0].split("/")
            spelled = [f"-{name}" if len(name) == 1 else f"--{name}" for name in names]
            parser.add_argument(*spelled, dest=names[-1], **settings)
    return parser


PARSER = parser_of(FLAGS, LISTS, SINGLE)
PARSER.add_argument("image")
PARSER.add_argument("command", nargs=argparse.REMAINDER)
EXEC = parser_of(
    "d/detach i/interactive t/tty T/no-TTY privileged", "e/env env-file", "u/user w/workdir detach-keys index"
)
EXEC.add_argument("container")
EXEC.add_argument("command", nargs=argparse.REMAINDER)
FIELDS = {
    long: field or long.replace("-", "_")
    for option in f"{FLAGS} {LISTS} {SINGLE} image= command=".split()
    for names, equals, field in [option.partition("=")]
    if equals
    for long in [names.rpartition("/")[2]]
}
"""Option → Compose's field."""


def run_words(words: Sequence[str]) -> list[str] | None:
    """The words after `docker run`, also behind sudo; None for another command."""
    rest = docker_words(words)
    if rest[:1] not in (["run"], ["create"]):
        return None
    by_wrapper = any(word.rsplit("/", 1)[-1] == OLD_DOCKER for word in words[: len(words) - len(rest)])
    return [*(["--runtime=nvidia"] if by_wrapper else []), *rest[1:]]


def docker_words(words: Sequence[str]) -> list[str]:
    """The words after `docker` (podman, nerdctl), [] for another command."""
    rest = list(words)
    while rest and (rest[0] in BEFORE or (len(rest) < len(words) and re.match(r"-|\w+=|\d+[smh]?$", rest[0]))):
        rest = rest[2 if rest[0] in ("-u", "--user", "-g") else 1 :]
    program = rest[0].rsplit("/", 1)[-1] if rest else ""
    if program == "docker-compose":
        return ["compose", *rest[1:]]
    if program not in ("docker", "podman", "nerdctl", OLD_DOCKER):
        return []
    rest = without_options(rest[1:])  # --context, -H
    return rest[1:] if rest[:1] == ["container"] else rest


def without_options(words: Sequence[str]) -> list[str]:
    """The words after the options of docker or docker compose itself."""
    rest = list(words)
    while rest and rest[0].startswith("-"):
        rest = rest[1 if "=" in rest[0] or rest[0] in ("-D", "--debug", "--tls") else 2 :]
    return rest


def exec_words(words: Sequence[str]) -> tuple[str, list[str]]:
    """(container, command) of `docker exec` or `docker compose exec`; ("", the words) of another command."""
    rest = docker_words(words)
    rest = without_options(rest[1:]) if rest[:1] == ["compose"] else rest
    try:
        found = EXEC.parse_args(rest[1:]) if rest[:1] == ["exec"] else None
    except Unreadable:
        found = None
    return (found.container, found.command) if found else ("", [word for word in words if word != "sudo"])


def unfinished(words: Sequence[str]) -> bool:
    """True if a command is a `docker run` without an image, so that the next line must continue it."""
    try:
        PARSER.parse_args(run_words(words) or ["any image"])
    except Unreadable as error:
        return "has no image" in str(error)
    return False


def parse(
    words: Sequence[str], where: str, variables: Mapping[str, str] | None = None
) -> tuple[ContainerRun, list[Finding]]:
    """The words after `docker run`. variables: of the caller's environment. Raises Unreadable."""
    options = {name: value for name, value in parsed(plain(words)).items() if value not in (None, False, [])}
    service = service_of(options)
    if str(service.get("userns_mode")).startswith(PODMAN_USERS):
        options["userns"] = service.pop("userns_mode")
    network = options.pop("network", "default")
    if re.fullmatch("host|none|container:.*", network):
        service["network_mode"] = network
    elif network not in ("bridge", "default"):
        options[f"network {network}"] = True
    service["networks"] = {network: {"aliases": options.pop("network-alias", [])}}
    findings: list[Finding] = []
    for name, value in options.items():
        shown = f"--{name}" if value is True else f"--{name} {value}"
        if why := SHARED_NETWORK if name.startswith("network ") else LEFT_OUT.get(name):
            findings.append(Finding("changed", where, f"{shown} is left out: {why}."))
        elif name not in NO_MEANING:
            findings.append(Finding("open", where, f"{shown} was not converted. Set it in compose: {{…}}."))
    run = container(where, None, service, findings, variables)
    return replace(run, interactive="interactive" in options, detached="detach" in options), findings


def parsed(words: list[str]) -> dict[str, Any]:
    """The options and what follows them. A variable without a value before more options holds options, not the image.

    >>> parsed(["-d", "$OPTIONS", "--name", "one", "lab/x:1"])["image"], parsed(["$IMAGE", "--model", "a"])["image"]
    ('lab/x:1', '$IMAGE')
    """
    found = vars(PARSER.parse_args(words))
    if found["image"].startswith(("$", "`")) and found["command"][:1] and found["command"][0].startswith("-"):
        at = len(words) - len(found["command"]) - 1
        try:
            without = parsed([*words[:at], *words[at + 1 :]])
        except Unreadable:
            return found
        return without if is_plausible(without["image"]) else found
    return found


def is_plausible(image: str) -> bool:
    """Can a word be an image, and not an argument of a program?

    >>> [is_plausible(word) for word in ("lab/x:1", "ollama/ollama", "$IMAGE", "8", "$THREADS", "/m/a.gguf", "a/b")]
    [True, True, True, False, False, False, False]
    """
    named = re.fullmatch(r"[a-z0-9][\w.-]*(:\d+)?(/[\w.-]+)*(:[\w.-]+|@sha256:\w+)", image)
    variable = re.fullmatch(r"\$\{?\w*(image|img)\w*\}?", image, re.IGNORECASE)
    return bool(named or variable or engine_of(image))


def plain(words: Sequence[str]) -> list[str]:
    """The words with `--rm=true` as `--rm`, and without `--rm=false`; argparse allows no values for flags."""
    flags = {f"-{'-' * (len(name) > 1)}{name}" for name in re.findall(r"[\w-]+(?=[/=\s])", FLAGS)}
    kept = []
    for word in words:
        flag, _, value = word.partition("=")
        if flag not in flags or value not in ("true", "false"):
            kept.append(word)
        elif value == "true":
            kept.append(flag)
    return kept


def service_of(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of Compose that options become. Removes them from options."""
    service: dict[str, Any] = {}
    for name in [name for name in options if name in FIELDS]:
        section, _, key = FIELDS[name].rpartition(".")
        place = service.setdefault(section, {}) if section else service
        place[key] = CHANGED.get(name, lambda value: value)(options.pop(name))
    if "logging" in service:
        service["logging"].setdefault("driver", "json-file")
    if long := options.pop("mount", None):
        service["volumes"] = [*service.get("volumes", []), *map(long_mount, long)]
    return service


def as_map(texts: Sequence[str]) -> dict[str, str]:
    """A map for texts such as `NAME=value`."""
    return dict(text.partition("=")[::2] for text in texts)


def ulimits(texts: Sequence[str]) -> dict[str, Any]:
    """Compose's map for `memlock=-1:-1`."""
    found: dict[str, Any] = {}
    for name, limits in as_map(texts).items():
        soft, _, hard = limits.partition(":")
        found[name] = int(soft) if not hard or soft == hard else {"soft": int(soft), "hard": int(hard)}
    return found


CHANGED: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("annotation", "label", "log-opt", "storage-opt", "sysctl"), as_map),
    "ulimit": ulimits,
    "entrypoint": lambda program: [program] if program else [],  # "" takes the image's entry point away
    "health-cmd": lambda command: ["CMD-SHELL", command],
    "stop-timeout": lambda seconds: f"{seconds}s",
}
"""Options that Compose writes differently."""


def long_mount(text: str) -> dict[str, Any]:
    """Compose's long syntax for `type=bind,source=/a,target=/b,readonly`."""
    options = as_map(text.split(","))
    found: dict[str, Any] = {"type": options.get("type", "volume")}
    for name, key, *section in (("src", "source"), ("source", "source"), ("dst", "target"), ("destination", "target"),
                                ("target", "target"), ("bind-propagation", "propagation", "bind"),
                                ("tmpfs-size", "size", "tmpfs")):  # fmt: skip
        if name in options:
            (found.setdefault(section[0], {}) if section else found)[key] = options[name]
    if "volume-nocopy" in options:
        found["volume"] = {"nocopy": True}
    return {**found, "read_only": any(options.get(word, "false") in ("", "true", "1") for word in ("readonly", "ro"))}
