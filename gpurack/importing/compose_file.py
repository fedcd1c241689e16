"""Read compose files: their services as ContainerRuns."""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import yaml

from gpurack.importing import built, compose_yaml
from gpurack.importing.container import ContainerRun, Finding, Kind
from gpurack.importing.docker_run import OWN_PULLS, SHARED_NETWORK
from gpurack.importing.service import Unreadable, container
from gpurack.spec.secret_names import is_secret

NO_MEANING = {
    "networks": SHARED_NETWORK,
    "depends_on": "gpurack starts all containers, and each waits for those it needs",
    "links": "gpurack's containers reach each other by name",
    "pull_policy": OWN_PULLS,
}
BY_GIT = 'image: {"build": {"git": …, "revision": …}}'
LISTS = ("ports", "volumes", "devices", "secrets", "configs")
FILES = {"secrets": "/run/secrets/", "configs": "/"}
"""Fields that mount files named elsewhere in the compose file → where."""


ENDED = "service_completed_successfully"
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
        findings.append(Finding("open", where, what))

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
    once = {name for one in services.values() for name in waited_for(one)}
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
                compose_yaml.interpolated(compose_yaml.plain(one), variables, undefined)
                for one in (fields, {key: content[key] for key in FILES if content.get(key)})
            )
            run = service(str(name), fields, findings, images, defined, variables)
            runs.append(replace(run, once=str(name) in once))
        except Unreadable as error:
            findings.append(Finding("open", where, f"is not a valid service: {error}"))
        except LookupError as error:
            what = str(error.args[0]) if type(error) is LookupError else INVALID
            findings.append(Finding("open", where, what if what == INVALID else f"not imported: {what}"))
        except (AttributeError, TypeError, ValueError):  # Python's message may contain a secret
            findings.append(Finding("open", where, INVALID))
    return runs, findings, images


def waited_for(fields: Any) -> list[str]:
    """The services that must have ended before a service starts."""
    waits = fields.get("depends_on") if isinstance(fields, Mapping) else None
    waits = waits if isinstance(waits, Mapping) else {}
    return [str(name) for name, how in waits.items() if isinstance(how, Mapping) and how.get("condition") == ENDED]


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
    variables: Mapping[str, str],
) -> ContainerRun:
    """One service as a ContainerRun. Adds what was not converted to findings, and its build to images.

    defined: the secrets and configs of the file.
    """
    where = f"service {name}"

    def note(what: str, kind: Kind = "open") -> None:
        findings.append(Finding(kind, where, what))

    check_shape(fields)
    if not fields.get("image") and not fields.get("build"):
        raise LookupError("it has neither image nor build.")
    settings = {
        "image": f"{name}:built-by-compose",
        **{key: value for key, value in fields.items() if value is not None},
    }
    build = settings.pop("build", None)
    if build is not None:
        build = {"context": build} if isinstance(build, str) else build
        if found := built.built_from(build, [str(settings["image"])], where):
            images[built.full(str(settings["image"]))] = found
        else:
            note(f"is built from `{build.get('context', '.')}`. Set {BY_GIT}, or keep the image's name if the host has "
                 "it.")  # fmt: skip
    for key in NO_MEANING.keys() & settings.keys():
        note(f"{key} is left out: {NO_MEANING[key]}.", "changed")
    deploy = settings.pop("deploy", {})
    resources = {key: dict(value) for key, value in (deploy.get("resources") or {}).items()}
    reserved = resources.get("reservations", {})
    devices = [*(reserved.pop("devices", None) or []), *swarm_gpus(reserved)]
    settings["gpus"] = settings.get("gpus") or devices
    for key in sorted(deploy.keys() - {"resources", "replicas"}):
        note(f"deploy.{key} was not converted.")
    for kind in FILES:
        for item in settings.pop(kind, []):
            mounted = file_mount(kind, item, defined.get(kind) or {})
            if mounted["source"]:
                settings["volumes"] = [*settings.get("volumes", []), mounted]
            else:
                named = item if isinstance(item, str) else item["source"]
                inline = "content" in ((defined.get(kind) or {}).get(named) or {})
                how = ("whose content is in this text. Write it to a file, and mount it with compose.volumes." if inline
                       else "without `file` in this text. Mount one with compose.volumes.")  # fmt: skip
                note(f"{mounted['target']} is a file of {kind}, {how}")
    run = container(where, name, settings, findings, variables)
    if kept := {key: value for key, value in resources.items() if value}:
        run = replace(run, compose={**run.compose, "deploy": {"resources": kept}})
    if str(settings.pop("scale", 1)) != "1" or str(deploy.get("replicas", 1)) != "1":
        note("runs several times; an entry is one container. Write one for each.")
    for key in sorted(settings.keys() - NO_MEANING.keys() - {"tty", "stdin_open", "profiles"}):
        note(f"{key} was not converted. Set it in compose: {{…}}.")
    return replace(run, aliases=(name, *run.aliases))


def swarm_gpus(reserved: dict[str, Any]) -> list[dict[str, Any]]:
    """The GPUs among Swarm's generic resources, as device reservations. Removes them from reserved."""
    found, others = [], []
    for resource in reserved.pop("generic_resources", None) or []:
        spec = resource.get("discrete_resource_spec") or {}
        if "gpu" in str(spec.get("kind")).lower():
            found.append({"count": spec.get("value", 1)})
        else:
            others.append(resource)
    if others:
        reserved["generic_resources"] = others
    return found


def check_shape(fields: Any) -> None:
    """Raise Unreadable for the most common wrong types."""
    if not isinstance(fields, Mapping):
        raise Unreadable(f"it must be a map of fields, not {type_name(fields)}.")
    for key in LISTS:
        if not isinstance(fields.get(key), list | None):
            raise Unreadable(f"{key} must be a list, not {type_name(fields[key])}.")


def type_name(value: Any) -> str:
    """The type of a value in words."""
    return {str: "text", bool: "true or false", int: "a number", float: "a number", dict: "a map"}.get(
        type(value), "a list"
    )


def file_mount(kind: str, settings: Any, defined: Mapping[str, Any]) -> dict[str, Any]:
    """The mount of a secret or config, as Compose makes it; without a source if it is not a file."""
    settings = {"source": settings} if isinstance(settings, str) else settings
    name = str(settings["source"])
    file = str((defined.get(name) or {}).get("file") or "")
    source = file if not file or file.startswith(("/", "~", ".", "$")) else f"./{file}"
    target = str(settings.get("target") or name)
    target = target if target.startswith("/") else f"{FILES[kind]}{target}"
    return {"type": "bind", "source": source, "target": target, "read_only": True}
