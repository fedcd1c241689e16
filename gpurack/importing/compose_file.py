"""Read compose files: their services as ContainerRuns."""

import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import yaml

from gpurack.importing import built, compose_yaml, docker_run, gpus
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
NO_MEANING = {
    "networks": "gpurack's containers share one network and reach each other by name",
    "depends_on": "gpurack starts all containers, and each waits for those it needs",
    "links": "gpurack's containers reach each other by name",
    "pull_policy": "gpurack pulls an image when the inventory changes it",
}


LISTS = ("ports", "volumes", "devices", "secrets", "configs")
FILES = {"secrets": "/run/secrets/", "configs": "/"}
"""Fields that mount files named elsewhere in the compose file → where."""


INVALID = "is not a valid service. Run `docker compose config` to find the error."


class NoCompose(Exception):
    """The text is not a compose file; the message says why."""


def is_compose(text: str) -> bool:
    """True if the text looks like a compose file."""
    return bool(re.search(r"""^(\{\s*)?["']?services["']?\s*:(\s|$)""", text, re.MULTILINE))


def read(
    text: str,
    variables: Mapping[str, str],
    files: Mapping[str, str] | None = None,
    profiles: Collection[str] = (),
) -> tuple[list[ContainerRun], list[Finding], dict[str, built.Built]]:
    """The services of a compose file, and the images that it builds. Raises NoCompose.

    files: path as the compose file writes it → content, for `extends` and `include`. profiles: the chosen ones.
    """
    images: dict[str, built.Built] = {}
    findings: list[Finding] = []

    def note(what: str, where: str = "compose file") -> None:
        if (finding := Finding("open", where, what)) not in findings:
            findings.append(finding)

    given = files or {}
    try:
        content = compose_yaml.load(text)
        if isinstance(content, dict):
            content = compose_yaml.included(content, given, note)
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
        if key not in ("version", "name", "services", "volumes", "networks", *FILES) and not str(key).startswith("x-"):
            findings.append(Finding("open", "compose file", f"{key} was not converted."))
    runs = []
    for name in services:
        where = f"service {name}"

        def undefined(variable: str, where: str = where) -> None:
            if not is_secret(variable):  # stays a reference, which its entry reads from the environment
                note(f"${variable} is not defined. Pass --set {variable}=….", where)

        try:
            fields = compose_yaml.plain(compose_yaml.extended(name, services, given)) or {}
            if unchosen := left_by_profiles(fields, profiles):
                findings.append(Finding("open", where, unchosen))
                continue
            fields, defined = (
                compose_yaml.interpolated(one, variables, undefined)
                for one in (fields, {key: content[key] for key in FILES if content.get(key)})
            )
            runs.append(service(str(name), fields, findings, images, defined))
        except docker_run.Unreadable as error:
            findings.append(Finding("open", where, f"is not a valid service: {error}"))
        except LookupError as error:
            what = str(error.args[0]) if type(error) is LookupError else INVALID
            findings.append(Finding("open", where, what if what == INVALID else f"not imported: {what}"))
        except (AttributeError, TypeError, ValueError):  # Python's message may contain a secret
            findings.append(Finding("open", where, INVALID))
    return runs, findings, images


def left_by_profiles(fields: Any, profiles: Collection[str]) -> str:
    """Why a service is not chosen: it belongs to other profiles; "" if it is chosen."""
    own = [str(profile) for profile in fields.get("profiles") or []] if isinstance(fields, Mapping) else []
    if not own or {*own, "*"} & set(profiles):
        return ""
    return f"not imported: it belongs to profile {', '.join(own)}. Choose it with --profile {own[0]}."


def service(
    name: str,
    fields: Mapping[str, Any],
    findings: list[Finding],
    images: dict[str, built.Built],
    defined: Mapping[str, Any],
) -> ContainerRun:
    """One service as a ContainerRun. Adds what was not converted to findings, and its build to images.

    defined: the secrets and configs of the file.
    """
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
    compose = {
        key: value for key in list(settings) if key in AS_IT_IS and (value := settings.pop(key)) not in ([], None)
    }
    networks = settings.get("networks")
    joined = networks.values() if isinstance(networks, Mapping) else ()
    aliases = [name, *(str(alias) for network in joined if network for alias in network.get("aliases") or [])]
    linked = docker_run.links(settings.get("links") or [])
    for key in [key for key in settings if key in NO_MEANING]:
        findings.append(Finding("changed", where, f"{key} is left out: {NO_MEANING[key]}."))
        del settings[key]
    deploy = settings.pop("deploy", None) or {}
    resources = {key: dict(value) for key, value in (deploy.get("resources") or {}).items()}
    devices = resources.get("reservations", {}).pop("devices", [])
    if kept := {key: value for key, value in resources.items() if value}:
        compose["deploy"] = {"resources": kept}
    for key in sorted(deploy.keys() - {"resources", "replicas"}):
        findings.append(Finding("open", where, f"deploy.{key} was not converted."))
    environment, unset = environment_of(settings.pop("environment", None))
    if unset:
        compose["environment"] = unset
    requested, runtime = gpus.reserved(settings.pop("gpus", None) or devices), settings.pop("runtime", None)
    given = docker_run.given_gpus(requested, compose, runtime, environment, where, findings)
    network = settings.pop("network_mode", None)
    if network and network not in ("host", "bridge", "default"):
        findings.append(Finding("open", where, f"network_mode: {network} was not converted."))
    mounts = [mount(item) for item in settings.pop("volumes", None) or []]
    for kind in FILES:
        for item in settings.pop(kind, None) or []:
            one = file_mount(kind, item, defined.get(kind) or {})
            mounts += [one] if one.source else []
            if not one.source:
                what = f"{one.target} is a file of {kind}, without `file` in this text. Mount one with compose.volumes."
                findings.append(Finding("open", where, what))
    command, entrypoint = settings.pop("command", None), settings.pop("entrypoint", None)
    run = ContainerRun(
        where=where,
        name=settings.pop("container_name", None) or name,
        image=image,
        command=tuple(argv(command)),
        entrypoint=None if entrypoint is None else tuple(argv(entrypoint)),
        environment=given.environment,
        mounts=tuple(mounts),
        ports=tuple(port for item in settings.pop("ports", None) or [] for port in ports(item)),
        gpus=given.gpus,
        aliases=tuple(aliases),
        links=linked,
        host_network=network == "host",
        compose=compose,
    )
    if str(settings.pop("scale", 1)) != "1" or str(deploy.pop("replicas", 1)) != "1":
        findings.append(Finding("open", where, "runs several times; an entry is one container. Write one for each."))
    for key in sorted(settings.keys() - {"tty", "stdin_open", "profiles"}):
        if key.startswith("x-"):
            continue
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
    return shlex.split(command) if isinstance(command, str) else [compose_yaml.scalar(word) for word in command or []]


def environment_of(settings: Any) -> tuple[dict[str, str], list[str]]:
    """(variables, names without a value), given as map or list."""
    if isinstance(settings, dict):
        texts = [name if value is None else f"{name}={compose_yaml.scalar(value)}" for name, value in settings.items()]
    else:
        texts = [str(item) for item in settings or []]
    return docker_run.environment_of(texts)


def mount(settings: Any) -> Mount:
    """A volume in short or long syntax."""
    if isinstance(settings, str):
        return docker_run.mount(settings)
    kind = str(settings.get("type", "volume"))
    if kind not in ("bind", "volume", "tmpfs"):
        raise docker_run.Unreadable(f"a volume of type {kind} is not supported.")
    sections = {name: value for name, value in settings.items() if name in ("bind", "volume", "tmpfs")}
    more = tuple((name, key, item) for name, value in sections.items() for key, item in (value or {}).items())
    read_only = bool(settings.get("read_only", False))
    return Mount(kind, str(settings.get("source", "")), str(settings["target"]), read_only, more)  # type: ignore[arg-type]


def file_mount(kind: str, settings: Any, defined: Mapping[str, Any]) -> Mount:
    """The mount of a secret or config, as Compose makes it; without a source if it is not a file."""
    settings = {"source": settings} if isinstance(settings, str) else settings
    name = str(settings["source"])
    file = str((defined.get(name) or {}).get("file") or "")
    source = file if not file or file.startswith(("/", "~", ".", "$")) else f"./{file}"
    target = str(settings.get("target") or name)
    return Mount("bind", source, target if target.startswith("/") else f"{FILES[kind]}{target}", True)


def ports(settings: Any) -> list[Port]:
    """A port in short or long syntax."""
    if not isinstance(settings, dict):
        return docker_run.ports_of(str(settings))
    published, protocol = settings.get("published") or "", str(settings.get("protocol", "tcp"))
    ip = str(settings.get("host_ip", ""))
    outside = f"{f'[{ip}]' if ':' in ip else ip}:{published}".lstrip(":")
    return docker_run.ports_of(f"{outside}:{settings['target']}/{protocol}".lstrip(":"))
