"""The names and ports by which the containers of a text reach each other, changed where gpurack changes them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gpurack.importing.container import ContainerRun, Finding
from gpurack.importing.translation import Entry

HOST = re.compile(r"(?i)(^|[-_])(host(name)?|server|addr(ess)?)$")
"""Names of settings whose whole value is the name of a host."""
PORT = re.compile(r"(?i)(^|[-_])port$")
"""Names of settings whose whole value is a port, of the host in the setting beside it."""
HERE = ("localhost", "127.0.0.1", "0.0.0.0", "[::1]")
URL = re.compile(
    r"(?P<before>://(?:[^/@\s]*@)?|^|(?<=[\s\"'=]))(?P<host>[\w.-]+|\[::1\])(?::(?P<port>\d+))?(?=[/\s?;,'\"]|$)"
)


@dataclass(frozen=True)
class Target:
    """What a name means now. key: the entry's. before, after: its port inside the container; key "" if not imported."""

    key: str
    before: int = 0
    after: int = 0


def targets(runs: Iterable[ContainerRun], made: Iterable[tuple[Entry, ContainerRun]]) -> dict[str, Target]:
    """Name in the text → what it is now. made: the entries with their containers."""
    entries = {id(run): entry for entry, run in made}
    found: dict[str, Target] = {}
    for run in runs:
        entry = entries.get(id(run))
        target = Target(entry.key, *entry.inside) if entry else Target("")
        found |= {name: target for name in (run.name, *run.aliases) if name}
    return found


def adapt(
    entry: Entry, run: ContainerRun, known: Mapping[str, Target], published: Mapping[int, Target]
) -> list[Finding]:
    """Change names and ports in an entry's own words to what they are now. Returns what changed or does not resolve."""
    known = {**known, **{alias: known[name] for alias, name in run.links.items() if name in known}}
    findings: list[Finding] = []

    def note(kind: Any, what: str) -> None:
        findings.append(Finding(kind, entry.where, what))

    def changed(found: re.Match[str], name: str) -> str:
        host, port, health = found["host"], int(found["port"] or 0), name == "healthcheck"
        if not found["before"] and not port and not (found[0] == found.string and HOST.search(name)):
            return found[0]
        if host in HERE and health and port == entry.inside[0]:
            target, now = Target(host, *entry.inside), host
        elif host in HERE and run.host_network and port in published and not health:
            target = Target(published[port].key, port, published[port].after)
            now = target.key
        elif host in known:
            target, now = known[host], known[host].key
        else:
            return found[0]
        if not target.key:
            note(
                "open",
                f"uses {host}, which is not imported. Connect it to the network of gpurack, or name its address.",
            )
            return found[0]
        number = f":{target.after if port == target.before else port}" if port else ""
        text = f"{found['before']}{now}{number}"
        if text != found[0]:
            shown = f"{host}:{port}" if port else host
            note("changed", f"{shown} in its settings became {now}{number}, its address in gpurack.")
        return text

    def port_of(name: str, port: Any, beside: Iterable[tuple[Any, Any]], separator: str) -> Any:
        """The value of a setting such as X_PORT: the new port of the host in X_HOST beside it."""
        hosts = (host for other, host in beside if HOST.search(str(other))
                 and HOST.sub("", str(other)) == PORT.sub("", name))  # fmt: skip
        target = known.get(str(next(hosts, None))) if PORT.search(name) else None
        if not (target and target.key and str(port) == str(target.before) != str(target.after)):
            return port
        what = f"{name}{separator}{target.before} became {target.after}, the port of {target.key} in gpurack."
        note("changed", what)
        return str(target.after)

    def walk(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: walk(item, name or str(key)) for key, item in value.items()}
        if isinstance(value, list):
            pairs = list(pairwise(value))  # a flag and its value
            ports = [port_of(str(flag), port, pairs, " ") for flag, port in pairs]
            return [walk(item, name) for item in [*value[:1], *ports]]
        return URL.sub(lambda found: changed(found, name), value) if isinstance(value, str) else value

    if "connects_to" in entry.fields:
        connected: dict[str, None] = {}
        for url in entry.fields["connects_to"]:
            host, _, port = re.sub(r"^https?://", "", url).split("/")[0].partition(":")
            here = port.isdigit() and (host in HERE if run.host_network else host == "host.docker.internal")
            target = (published.get(int(port)) if here else None) or known.get(host)
            if target and target.key:
                connected[target.key] = None
            else:
                note("open", f"connects to {host}, which is not one of these containers. Set connects_to.")
        entry.fields["connects_to"] = list(connected) or "all"
    env = entry.fields.get("env", {})
    env |= {name: port_of(name, value, env.items(), "=") for name, value in env.items()}
    for field in ("env", "args"):
        if field in entry.fields:
            entry.fields[field] = walk(entry.fields[field])
    for word, value in entry.fields.get("compose", {}).items():
        if word in ("command", "entrypoint", "healthcheck", "environment"):
            entry.fields["compose"][word] = walk(value, "healthcheck" if word == "healthcheck" else "")
    return findings
