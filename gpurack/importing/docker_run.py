"""Parse `docker run …` to a ContainerRun. The options are those of Docker 28's `docker run --help`."""

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from gpurack.importing import gpus
from gpurack.importing.container import ContainerRun, Finding, Mount, Port

FLAGS = (
    "d/detach", "i/interactive", "t/tty", "P/publish-all", "q/quiet", "init", "privileged", "read-only", "rm",
    "sig-proxy", "no-healthcheck", "oom-kill-disable", "disable-content-trust", "use-api-socket",
)  # fmt: skip
LISTS = (
    "a/attach", "e/env", "l/label", "p/publish", "v/volume", "add-host", "annotation", "blkio-weight-device",
    "cap-add", "cap-drop", "device", "device-cgroup-rule", "device-read-bps", "device-read-iops", "device-write-bps",
    "device-write-iops", "dns", "dns-option", "dns-opt", "dns-search", "env-file", "expose", "group-add", "label-file",
    "link", "link-local-ip", "log-opt", "mount", "network-alias", "net-alias", "security-opt", "storage-opt", "sysctl",
    "tmpfs", "ulimit", "volumes-from",
)  # fmt: skip
SINGLE = (
    "c/cpu-shares", "h/hostname", "m/memory", "u/user", "w/workdir", "blkio-weight", "cgroup-parent", "cgroupns",
    "cidfile", "cpu-period", "cpu-quota", "cpu-rt-period", "cpu-rt-runtime", "cpus", "cpuset-cpus", "cpuset-mems",
    "detach-keys", "domainname", "entrypoint", "gpus", "health-cmd", "health-interval", "health-retries",
    "health-start-interval", "health-start-period", "health-timeout", "ip", "ip6", "ipc", "isolation", "kernel-memory",
    "log-driver", "mac-address", "memory-reservation", "memory-swap", "memory-swappiness", "name", "network", "net",
    "oom-score-adj", "pid", "pids-limit", "platform", "pull", "restart", "runtime", "shm-size", "stop-signal",
    "stop-timeout", "userns", "uts", "volume-driver",
)  # fmt: skip
COMPOSE = {
    "cap-add": "cap_add", "cap-drop": "cap_drop", "device": "devices", "add-host": "extra_hosts", "dns": "dns",
    "group-add": "group_add", "security-opt": "security_opt", "tmpfs": "tmpfs", "init": "init",
    "privileged": "privileged", "read-only": "read_only", "cpu-shares": "cpu_shares", "hostname": "hostname",
    "memory": "mem_limit", "user": "user", "workdir": "working_dir", "cpus": "cpus", "cpuset-cpus": "cpuset",
    "ipc": "ipc", "memory-reservation": "mem_reservation", "memory-swap": "memswap_limit", "pid": "pid",
    "oom-score-adj": "oom_score_adj", "pids-limit": "pids_limit", "platform": "platform", "restart": "restart",
    "shm-size": "shm_size", "stop-signal": "stop_signal", "userns": "userns_mode", "uts": "uts",
    "cgroup-parent": "cgroup_parent", "domainname": "domainname", "dns-search": "dns_search", "env-file": "env_file",
}  # fmt: skip
"""Options of docker run → Compose's field with the same value."""
PROPAGATION = ("shared", "slave", "private", "rshared", "rslave", "rprivate")
MOUNT_OPTIONS = {
    **{word: ("bind", "propagation", word) for word in PROPAGATION},
    "z": ("bind", "selinux", "z"), "Z": ("bind", "selinux", "Z"), "nocopy": ("volume", "nocopy", True),
}  # fmt: skip
"""Options behind `SOURCE:TARGET:` → their place in Compose's long syntax."""
OLD_DOCKER = "nvidia-docker"
"""The wrapper for `docker --runtime nvidia`, older than `--gpus`."""
NO_MEANING = {
    "attach", "detach-keys", "sig-proxy", "quiet", "disable-content-trust", "expose", "cidfile", "tty", "interactive",
    "detach",
}  # fmt: skip
"""Options that only concern the caller's terminal, or have no effect."""


class Unreadable(Exception):
    """Docker would not accept the command; the text says why."""


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


def parser_of(flags: Sequence[str], lists: Sequence[str], single: Sequence[str]) -> argparse.ArgumentParser:
    """A parser of options, each `s/long` or `long`, that raises Unreadable. An absent list is empty."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    for names, settings in ((flags, {"action": "store_true"}), (lists, {"action": "append", "default": []}),
                            (single, {})):  # fmt: skip
        for name in names:
            short, _, long = name.rpartition("/")
            parser.add_argument(f"--{long}", *([f"-{short}"] if short else []), dest=long, **settings)
    return parser


PARSER = parser_of(FLAGS, LISTS, SINGLE)
PARSER.add_argument("image")
PARSER.add_argument("command", nargs=argparse.REMAINDER)


def run_words(words: Sequence[str]) -> list[str] | None:
    """The words after `docker run`, also behind sudo; None for another command."""
    rest = docker_words(words)
    if rest[:1] == ["container"]:
        rest = rest[1:]
    if rest[:1] not in (["run"], ["create"]):
        return None
    by_wrapper = any(word.rsplit("/", 1)[-1] == OLD_DOCKER for word in words[: len(words) - len(rest)])
    return [*(["--runtime=nvidia"] if by_wrapper else []), *rest[1:]]


def docker_words(words: Sequence[str]) -> list[str]:
    """The words after `docker` (podman, nerdctl), [] for another command."""
    rest = list(words)
    while rest and rest[0] in ("sudo", "nohup", "exec", "time", "-E", "-n"):
        rest = rest[1:]
    if not rest or rest[0].rsplit("/", 1)[-1] not in ("docker", "podman", "nerdctl", OLD_DOCKER):
        return []
    rest = rest[1:]
    while rest and rest[0].startswith("-"):  # docker's own options: --context, -H
        rest = rest[1 if "=" in rest[0] or rest[0] in ("-D", "--debug", "--tls") else 2 :]
    return rest


def unfinished(words: Sequence[str]) -> bool:
    """True if a command is a `docker run` without an image, so that the next line must continue it."""
    try:
        PARSER.parse_args(run_words(words) or ["any image"])
    except Unreadable as error:
        return "has no image" in str(error)
    return False


def parse(words: Sequence[str], where: str) -> tuple[ContainerRun, list[Finding]]:
    """The words after `docker run`. Raises Unreadable."""
    options = {
        name: value for name, value in vars(PARSER.parse_args(plain(words))).items() if value not in (None, False, [])
    }
    findings: list[Finding] = []

    def changed(what: str) -> None:
        findings.append(Finding("changed", where, what))

    compose = {COMPOSE[name]: options.pop(name) for name in list(options) if name in COMPOSE}
    compose |= _other_fields(options)
    network = options.pop("network", None) or options.pop("net", None)
    if network and network not in ("host", "bridge", "default"):
        changed(
            f"--network {network} is left out: gpurack's containers share one network and reach each other by name."
        )
    if pull := options.pop("pull", None):
        changed(f"--pull {pull} is left out: gpurack pulls an image when the inventory changes it.")
    if options.pop("rm", None):
        changed("--rm is left out: gpurack removes its containers itself.")
    if options.pop("publish-all", None):
        changed("--publish-all is left out: `port` sets the published port.")
    environment, unset = environment_of(options.pop("env", []))
    mounts = [mount(text) for text in options.pop("volume", [])] + [
        long_mount(text) for text in options.pop("mount", [])
    ]
    ports = [port for text in options.pop("publish", []) for port in ports_of(text)]
    requested, runtime = gpus.option(options.pop("gpus", None)), options.pop("runtime", None)
    given = given_gpus(requested, compose, runtime, environment, where, findings)
    if unset:
        compose["environment"] = unset
    entrypoint = options.pop("entrypoint", None)  # "" takes the image's entry point away
    run = ContainerRun(
        where=where,
        name=options.pop("name", None),
        image=options.pop("image"),
        command=tuple(options.pop("command", ())),
        entrypoint=None if entrypoint is None else tuple(filter(None, [entrypoint])),
        environment=given.environment,
        mounts=tuple(mounts),
        ports=tuple(ports),
        gpus=given.gpus,
        aliases=(*options.pop("network-alias", []), *options.pop("net-alias", [])),
        links=links(options.pop("link", [])),
        host_network=network == "host",
        interactive=bool(options.get("interactive")),
        detached=bool(options.get("detach")),
        compose=compose,
    )
    for name in options.keys() - NO_MEANING:
        shown = f" {options[name]}" if options[name] is not True else ""
        findings.append(Finding("open", where, f"--{name}{shown} was not converted. Set it in compose: {{…}}."))
    return run, findings


def given_gpus(
    requested: gpus.Gpus,
    compose: dict[str, Any],
    runtime: str | None,
    environment: Mapping[str, str],
    where: str,
    findings: list[Finding],
) -> gpus.Given:
    """The GPUs of a container. Removes their devices from compose and adds findings. requested: as in gpus.given."""
    given = gpus.given(requested, compose.pop("devices", []), runtime, environment)
    if given.devices:
        compose["devices"] = given.devices
    findings += [Finding("changed", where, what) for what in given.changed]
    findings += [Finding("open", where, what) for what in given.open]
    return given


def plain(words: Sequence[str]) -> list[str]:
    """The words with `--rm=true` as `--rm`, and without `--rm=false`; argparse allows no values for flags."""
    flags = {flag for name in FLAGS for short, _, long in [name.rpartition("/")] for flag in (f"--{long}", f"-{short}")}
    kept = []
    for word in words:
        flag, _, value = word.partition("=")
        if flag not in flags or value not in ("true", "false"):
            kept.append(word)
        elif value == "true":
            kept.append(flag)
    return kept


def _other_fields(options: dict[str, Any]) -> dict[str, Any]:
    """Remove from `options` the options that Compose writes differently; return them as Compose fields."""
    words: dict[str, Any] = {}
    for option, word in (("label", "labels"), ("sysctl", "sysctls")):
        if option in options:
            words[word] = dict(text.partition("=")[::2] for text in options.pop(option))
    if "ulimit" in options:
        words["ulimits"] = ulimits(options.pop("ulimit"))
    if "stop-timeout" in options:
        words["stop_grace_period"] = f"{options.pop('stop-timeout')}s"
    if "log-driver" in options or "log-opt" in options:
        words["logging"] = {"driver": options.pop("log-driver", "json-file")}
        if "log-opt" in options:
            words["logging"]["options"] = dict(text.partition("=")[::2] for text in options.pop("log-opt"))
    health: dict[str, Any] = {
        name.replace("-", "_"): options.pop(f"health-{name}")
        for name in ("interval", "retries", "timeout", "start-period", "start-interval")
        if f"health-{name}" in options
    }
    if "health-cmd" in options:
        health = {"test": ["CMD-SHELL", options.pop("health-cmd")], **health}
    if health:
        words["healthcheck"] = health
    if options.pop("no-healthcheck", None):
        words["healthcheck"] = {"disable": True}
    return words


def ulimits(texts: Sequence[str]) -> dict[str, Any]:
    """Compose's map for `memlock=-1:-1`."""
    found: dict[str, Any] = {}
    for text in texts:
        name, _, limits = text.partition("=")
        soft, _, hard = limits.partition(":")
        found[name] = int(soft) if not hard or soft == hard else {"soft": int(soft), "hard": int(hard)}
    return found


def environment_of(texts: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """(variables with values, names that take their value from the caller's environment)"""
    values = {name: value for name, equals, value in (text.partition("=") for text in texts) if equals}
    return values, [text for text in texts if "=" not in text]


def links(texts: Sequence[Any]) -> dict[str, str]:
    """A container's own names for others, by `NAME:ALIAS`.

    >>> links(["db:database", "llm"])
    {'database': 'db', 'llm': 'llm'}
    """
    return {alias or name: name for name, _, alias in (str(text).partition(":") for text in texts)}


def mount(text: str) -> Mount:
    """A mount of `SOURCE:TARGET[:ro]`, also with Windows drives.

    >>> mount("c:/models:/models")
    Mount(kind='bind', source='c:/models', target='/models', read_only=False, options=())
    """
    drive = re.match(r"[A-Za-z]:[\\/][^:]*:", text)
    head, tail = (text[:2], text[2:]) if drive else ("", text)
    parts = tail.split(":")
    if len(parts) == 1:
        return Mount("volume", "", text)
    source, target, *options = parts
    source = head + source
    is_path = bool(drive) or source.startswith(("/", ".", "~", "$"))
    words = ",".join(options).split(",")
    more = tuple(MOUNT_OPTIONS[word] for word in words if word in MOUNT_OPTIONS)
    return Mount("bind" if is_path else "volume", source, target, "ro" in words, more)


def long_mount(text: str) -> Mount:
    """A mount of `type=bind,source=/a,target=/b,readonly`. Raises Unreadable for other types."""
    options = dict(part.partition("=")[::2] for part in text.split(","))
    kind = options.get("type", "volume")
    if kind not in ("bind", "volume", "tmpfs"):
        raise Unreadable(f"--mount type {kind} is not supported.")
    source = options.get("source") or options.get("src") or ""
    target = options.get("target") or options.get("dst") or options.get("destination") or ""
    read_only = any(options.get(word, "false") in ("", "true", "1") for word in ("readonly", "ro"))
    more: list[tuple[str, str, Any]] = []
    if "bind-propagation" in options:
        more.append(("bind", "propagation", options["bind-propagation"]))
    if "volume-nocopy" in options:
        more.append(("volume", "nocopy", True))
    if "tmpfs-size" in options:
        more.append(("tmpfs", "size", options["tmpfs-size"]))
    return Mount(kind, source, target, read_only, tuple(more))  # type: ignore[arg-type]


def ports_of(text: str) -> list[Port]:
    """The ports of `[IP:][HOST:]CONTAINER[/PROTOCOL]`, also of ranges. Raises Unreadable.

    >>> ports_of("127.0.0.1:8001:8000")
    [Port(ip='127.0.0.1', host=8001, container=8000, protocol='tcp', unset='')]
    """
    body, _, protocol = text.partition("/")
    rest, _, inside = body.rpartition(":")
    ip, _, outside = rest.rpartition(":")
    if rest.endswith("]") or ("." in rest and not ip):
        ip, outside = rest, ""
    unset = outside if outside.startswith("$") else ""
    outside = "" if unset else outside
    try:
        insides = _range(inside)
        outsides: list[int] | list[None] = _range(outside) if outside else [None] * len(insides)
        outsides = outsides[:1] if len(insides) == 1 else outsides  # of which Docker takes a free one
        return [
            Port(ip.strip("[]"), host, port, protocol or "tcp", unset)
            for host, port in zip(outsides, insides, strict=True)  # Docker refuses ranges of different lengths
        ]
    except ValueError:
        raise Unreadable(f"-p {text} is not a valid port.") from None


def _range(text: str) -> list[int]:
    first, _, last = text.partition("-")
    if ports := list(range(int(first), int(last or first) + 1)):
        return ports
    raise ValueError(text)
