"""A container by the fields of a Compose service: the one form into which docker run and docker inspect are brought."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from gpurack.importing import gpus
from gpurack.importing.compose_yaml import scalar
from gpurack.importing.container import ContainerRun, Finding, Mount, Port
from gpurack.spec.compose_keys import SERVICE
from gpurack.spec.secret_names import is_secret

CONVERTED = {
    "build", "command", "configs", "container_name", "deploy", "depends_on", "entrypoint", "environment", "extends",
    "gpus", "image", "links", "network_mode", "networks", "ports", "profiles", "pull_policy", "runtime", "scale",
    "secrets", "stdin_open", "tty", "volumes",
}  # fmt: skip
"""Fields of a service that have a meaning of their own here."""
NEED_MORE = {"credential_spec", "develop", "external_links", "models", "provider", "volumes_from"}
"""Fields that need something outside of the service."""
AS_IT_IS = SERVICE - CONVERTED - NEED_MORE
"""Fields that are copied to `compose` of its entry."""
MOUNT_OPTIONS = {
    **{word: ("bind", "propagation", word) for word in
       ("shared", "slave", "private", "rshared", "rslave", "rprivate")},
    "z": ("bind", "selinux", "z"), "Z": ("bind", "selinux", "Z"), "nocopy": ("volume", "nocopy", True),
}  # fmt: skip
"""Options behind `SOURCE:TARGET:` → their place in Compose's long syntax."""


HIDDEN = {ord(":"): "\ue000", ord("/"): "\ue001"}
SHOWN = {ord(new): chr(old) for old, new in HIDDEN.items()}
"""Characters of variables and commands without a value, which must not separate the parts of a port."""


class Unreadable(Exception):
    """Docker would not accept the settings; the text says why."""


def container(
    where: str,
    name: str | None,
    settings: dict[str, Any],
    findings: list[Finding],
    variables: Mapping[str, str] | None = None,
) -> ContainerRun:
    """The container of a service. Removes what it converts from settings; adds what it could not convert to findings.

    name: without `container_name`. variables: of the caller's environment. Raises Unreadable, and what Python raises
    for values of another type.
    """
    name, image = settings.pop("container_name", None) or name, str(settings.pop("image"))
    kept = [key for key in settings if key in AS_IT_IS or str(key).startswith("x-")]
    compose = {key: value for key in kept if (value := settings.pop(key)) not in ([], None)}
    environment, unset = environment_of(settings.pop("environment", None))
    for passed in unset:
        if passed in (variables or {}) or is_secret(passed):
            environment[passed] = (variables or {}).get(passed, f"${passed}")
        else:
            findings.append(Finding("open", where, f"the value of {passed} is not in the text. Set it in env."))
    mounts = tuple(map(mount, settings.pop("volumes", None) or []))
    nodes = [one.source for one in mounts if one.kind == "bind" and gpus.NODE.fullmatch(one.source)]
    requested, runtime = gpus.reserved(settings.pop("gpus", None)), settings.pop("runtime", None)
    given, devices, environment = gpus.container_gpus(
        requested, [*compose.pop("devices", []), *nodes], runtime, environment,
        lambda kind, what: findings.append(Finding(kind, where, what)),
    )  # fmt: skip
    if devices:
        compose["devices"] = devices
    network, networks = settings.pop("network_mode", None), settings.pop("networks", None)
    if network not in (None, "host", "bridge", "default"):
        findings.append(Finding("open", where, f"network_mode: {network} was not converted."))
    joined = networks.values() if isinstance(networks, Mapping) else ()
    command, entrypoint = settings.pop("command", None), settings.pop("entrypoint", None)
    return ContainerRun(
        where=where,
        name=name,
        image=image,
        command=tuple(argv(command)),
        entrypoint=None if entrypoint is None else tuple(argv(entrypoint)),
        environment=environment,
        mounts=tuple(one for one in mounts if one.source not in nodes),
        ports=tuple(dict.fromkeys(port for item in settings.pop("ports", None) or [] for port in ports(item))),
        gpus=given,
        aliases=tuple(str(alias) for settings in joined if settings for alias in settings.get("aliases") or []),
        links=links(settings.pop("links", None) or []),
        host_network=network == "host",
        compose=compose,
    )


def argv(command: Any) -> list[str]:
    """A command, given as text or list, as words."""
    return shlex.split(command) if isinstance(command, str) else [scalar(word) for word in command or []]


def environment_of(settings: Any) -> tuple[dict[str, str], list[str]]:
    """(variables, names that take their value from the caller's environment), given as map or list."""
    if isinstance(settings, dict):
        texts = [name if value is None else f"{name}={scalar(value)}" for name, value in settings.items()]
    else:
        texts = [str(item) for item in settings or []]
    values = {name: value for name, equals, value in (text.partition("=") for text in texts) if equals}
    return values, [text for text in texts if "=" not in text]


def links(texts: Sequence[Any]) -> dict[str, str]:
    """A container's own names for others, by `NAME:ALIAS`.

    >>> links(["db:database", "llm"])
    {'database': 'db', 'llm': 'llm'}
    """
    return {alias or name: name for name, _, alias in (str(text).partition(":") for text in texts)}


def mount(settings: Any) -> Mount:
    """A mount of `SOURCE:TARGET[:ro]`, also with Windows drives, or of Compose's long syntax. Raises Unreadable.

    >>> mount("c:/models:/models")
    Mount(kind='bind', source='c:/models', target='/models', read_only=False, options=())
    """
    if not isinstance(settings, str):
        kind = str(settings.get("type", "volume"))
        if kind not in ("bind", "volume", "tmpfs"):
            raise Unreadable(f"a mount of type {kind} is not supported.")
        more = [(section, *item) for section in ("bind", "volume", "tmpfs")
                for item in (settings.get(section) or {}).items()]  # fmt: skip
        source, read_only = str(settings.get("source") or ""), bool(settings.get("read_only", False))
        return Mount(kind, source, str(settings["target"]), read_only, tuple(more))  # type: ignore[arg-type]
    found = re.fullmatch(r"(?P<source>[A-Za-z]:[\\/][^:]*|[^:]*):(?P<target>[^:]*)(?P<options>.*)", settings)
    if not found:
        return Mount("volume", "", settings)
    words = re.split("[:,]", found["options"])
    options = tuple(MOUNT_OPTIONS[word] for word in words if word in MOUNT_OPTIONS)
    is_path = re.match(r"[/.~$]|[A-Za-z]:", found["source"])
    return Mount("bind" if is_path else "volume", found["source"], found["target"], "ro" in words, options)


def ports(settings: Any) -> list[Port]:
    """The ports of `[IP:][HOST:]CONTAINER[/PROTOCOL]`, also of ranges, or of the long syntax. Raises Unreadable.

    >>> ports("127.0.0.1:8001:8000")
    [Port(ip='127.0.0.1', host=8001, container=8000, protocol='tcp', unset='')]
    """
    text = re.sub(r"\$\(.*?\)|\$\{.*?\}", lambda one: one[0].translate(HIDDEN), str(settings))
    if isinstance(settings, Mapping):
        ip, outside, inside = (str(settings.get(key) or "") for key in ("host_ip", "published", "target"))
        protocol = str(settings.get("protocol", "tcp"))
    else:
        body, _, protocol = text.partition("/")
        rest, _, inside = body.rpartition(":")
        ip, _, outside = rest.rpartition(":")
        if rest.endswith("]") or ("." in rest and not ip):
            ip, outside = rest, ""
    if "$" in inside:
        return []  # a variable without a value
    unset = outside.translate(SHOWN) if "$" in outside else ""
    outside = "" if unset or outside == "0" else outside
    try:
        insides = numbers(inside)
        outsides: list[int] | list[None] = numbers(outside) if outside else [None] * len(insides)
        outsides = outsides[:1] if len(insides) == 1 else outsides  # of which Docker takes a free one
        return [
            Port(ip.translate(SHOWN).strip("[]"), host, port, protocol or "tcp", unset)
            for host, port in zip(outsides, insides, strict=True)  # Docker refuses ranges of different lengths
        ]
    except ValueError:
        raise Unreadable(f"{text} is not a valid port.") from None


def numbers(text: str) -> list[int]:
    """The numbers of `8000` or `8000-8001`. Raises ValueError."""
    first, _, last = text.partition("-")
    if found := list(range(int(first), int(last or first) + 1)):
        return found
    raise ValueError(text)
