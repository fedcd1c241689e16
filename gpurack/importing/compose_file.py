"""Read compose files: their services as ContainerRuns."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml

from gpurack.importing import built, docker_run, gpus
from gpurack.importing.container import ContainerRun, Finding, Mount, Port

AS_IT_IS = {
    "restart", "ipc", "shm_size", "cap_add", "cap_drop", "ulimits", "logging", "healthcheck", "extra_hosts", "user",
    "working_dir", "privileged", "devices", "tmpfs", "security_opt", "mem_limit", "mem_reservation", "memswap_limit",
    "cpus", "cpuset", "cpu_shares", "init", "stop_grace_period", "stop_signal", "dns", "dns_search", "hostname",
    "sysctls", "group_add", "pid", "pids_limit", "platform", "read_only", "labels", "env_file", "oom_score_adj",
    "userns_mode", "expose",
}  # fmt: skip
"""Fields of a service that are copied to `compose` of its entry."""
NO_MEANING = {
    "networks": "gpurack's containers share one network and reach each other by name",
    "depends_on": "gpurack starts all containers, and each waits for those it needs",
    "links": "gpurack's containers reach each other by name",
    "pull_policy": "gpurack pulls an image when the inventory changes it",
}


LISTS = ("ports", "volumes", "devices")


class NoCompose(Exception):
    """The text is not a compose file; the message says why."""


def is_compose(text: str) -> bool:
    """True if the text looks like a compose file."""
    return bool(re.search(r"^services:\s*(#.*)?$", text, re.MULTILINE))


def read(text: str, variables: Mapping[str, str]) -> tuple[list[ContainerRun], list[Finding], dict[str, built.Built]]:
    """The services of a compose file, and the images that it builds. Raises NoCompose."""
    images: dict[str, built.Built] = {}
    findings: list[Finding] = []
    try:
        content = interpolated(yaml.safe_load(text), variables, findings)
    except RecursionError:
        raise NoCompose("looks like a compose file but is nested too deeply.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        what = f"looks like a compose file but is not valid YAML ({line}{getattr(error, 'problem', error)})"
        raise NoCompose(f"{what}. Pass only the lines of the compose file.") from None
    services = content.get("services") if isinstance(content, dict) else None
    if not isinstance(services, dict):
        raise NoCompose("contains no services.")
    for key in content:
        if key not in ("version", "name", "services", "volumes", "networks") and not str(key).startswith("x-"):
            findings.append(Finding("open", "compose file", f"{key} was not converted."))
    runs = []
    for name, fields in services.items():
        try:
            runs.append(service(str(name), fields or {}, findings, images))
        except docker_run.Unreadable as error:
            findings.append(Finding("open", f"service {name}", f"is not a valid service: {error}"))
        except (AttributeError, KeyError, TypeError, ValueError):  # Python's message may contain a secret
            what = "is not a valid service. Run `docker compose config` to find the error."
            findings.append(Finding("open", f"service {name}", what))
    return runs, findings, images


def interpolated(value: Any, variables: Mapping[str, str], findings: list[Finding]) -> Any:
    """Substitute variables as Compose does; undefined ones stay and become findings."""
    if isinstance(value, dict):
        return {key: interpolated(item, variables, findings) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolated(item, variables, findings) for item in value]
    if not isinstance(value, str):
        return value

    def filled(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        name = found["bare"] or found["braced"]
        if variables.get(name):
            return variables[name]
        if found["sign"] == "-":
            return str(found["default"])
        missing = f"${name} is not defined. Pass --set {name}=…."
        if Finding("open", "compose file", missing) not in findings:
            findings.append(Finding("open", "compose file", missing))
        return f"${name}"

    name = r"[A-Za-z_][A-Za-z0-9_]*"
    return re.sub(
        rf"\$\$|\$(?:(?P<bare>{name})|\{{(?P<braced>{name})(?::?(?P<sign>[-?+])(?P<default>[^}}]*))?\}})", filled, value
    )


def service(
    name: str, fields: Mapping[str, Any], findings: list[Finding], images: dict[str, built.Built]
) -> ContainerRun:
    """One service as a ContainerRun. Adds what was not converted to findings, and its build to images."""
    where = f"service {name}"
    check_shape(fields)
    settings = dict(fields)
    build = settings.pop("build", None)
    image = str(settings.pop("image", None) or f"{name}:built-by-compose")
    if build is not None:
        build = {"context": build} if isinstance(build, str) else build
        if found := built_from(build, image, where):
            images[built.full(image)] = found
        else:
            findings.append(
                Finding("open", where, f"is built from `{build.get('context', '.')}`. Set image: {{\"build\": "
                        "{\"git\": …, \"revision\": …}}, or keep the image's name if the host has it.")
            )  # fmt: skip
    compose = {key: value for key in list(settings) if key in AS_IT_IS and (value := settings.pop(key)) != []}
    for key in [key for key in settings if key in NO_MEANING]:
        findings.append(Finding("changed", where, f"{key} is left out: {NO_MEANING[key]}."))
        del settings[key]
    deploy = settings.pop("deploy", None) or {}
    devices = deploy.get("resources", {}).get("reservations", {}).get("devices", [])
    limits = deploy.get("resources", {}).get("limits")
    if limits:
        compose["deploy"] = {"resources": {"limits": limits}}
    for key in deploy.keys() - {"resources"}:
        findings.append(Finding("open", where, f"deploy.{key} was not converted."))
    environment, unset = environment_of(settings.pop("environment", None))
    if unset:
        compose["environment"] = unset
    given = gpus.given(
        gpus.reserved(settings.pop("gpus", None) or devices),
        compose.pop("devices", []),
        settings.pop("runtime", None),
        environment,
    )
    if given.devices:
        compose["devices"] = given.devices
    findings += docker_run.given_findings(given, where)
    network = settings.pop("network_mode", None)
    if network and network not in ("host", "bridge", "default"):
        findings.append(Finding("open", where, f"network_mode: {network} was not converted."))
    command, entrypoint = settings.pop("command", None), settings.pop("entrypoint", None)
    run = ContainerRun(
        where=where,
        name=settings.pop("container_name", None) or name,
        image=image,
        command=tuple(argv(command)),
        entrypoint=None if entrypoint is None else tuple(argv(entrypoint)),
        environment=given.environment,
        mounts=tuple(mount(item) for item in settings.pop("volumes", None) or []),
        ports=tuple(port for item in settings.pop("ports", None) or [] for port in ports(item)),
        gpus=given.gpus,
        host_network=network == "host",
        compose=compose,
    )
    for key in settings.keys() - {"tty", "stdin_open"}:
        findings.append(Finding("open", where, f"{key} was not converted. Set it in compose: {{…}}."))
    return run


def check_shape(fields: Any) -> None:
    """Raise Unreadable for the most common wrong types."""
    if not isinstance(fields, Mapping):
        raise docker_run.Unreadable(f"it must be a map of fields, not {type_name(fields)}.")
    for key in LISTS:
        if not isinstance(fields.get(key), list | None):
            raise docker_run.Unreadable(f"{key} must be a list, not {type_name(fields[key])}.")


def type_name(value: Any) -> str:
    """The type of a value in words."""
    return {str: "text", bool: "true or false", int: "a number", float: "a number", dict: "a map"}.get(
        type(value), "a list"
    )


def built_from(build: Mapping[str, Any], image: str, where: str) -> built.Built | None:
    """What the image of a service is built from; None if its repository is unknown."""
    args, unset = environment_of(build.get("args"))
    context, dockerfile = str(build.get("context", ".")), str(build.get("dockerfile", "Dockerfile"))
    with_secrets = built.build_of(context, dockerfile, build.get("target"), args, [image], where, built.Checkout())
    found = built.without_secrets(with_secrets)
    understood = {"context", "dockerfile", "target", "args"}
    others = [f"build.{key} was not converted" for key in build if key not in understood]
    missing = [f"the value of build argument {name} is not in the text; add it" for name in unset]
    return replace(found, open=(*found.open, *others, *missing)) if found else None


def argv(command: Any) -> list[str]:
    """A command, given as text or list, as words."""
    return shlex.split(command) if isinstance(command, str) else [str(word) for word in command or []]


def environment_of(settings: Any) -> tuple[dict[str, str], list[str]]:
    """(variables, names without a value), given as map or list."""
    if isinstance(settings, dict):
        texts = [name if value is None else f"{name}={_text(value)}" for name, value in settings.items()]
    else:
        texts = [str(item) for item in settings or []]
    return docker_run.environment_of(texts)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def mount(settings: Any) -> Mount:
    """A volume in short or long syntax."""
    if isinstance(settings, str):
        return docker_run.mount(settings)
    kind = "bind" if settings.get("type") == "bind" else "volume"
    return Mount(kind, str(settings.get("source", "")), str(settings["target"]), bool(settings.get("read_only", False)))  # type: ignore[arg-type]


def ports(settings: Any) -> list[Port]:
    """A port in short or long syntax."""
    if not isinstance(settings, dict):
        return docker_run.ports_of(str(settings))
    published = settings.get("published")
    outside = int(published) if published else None
    return [
        Port(str(settings.get("host_ip", "")), outside, int(settings["target"]), str(settings.get("protocol", "tcp")))
    ]
