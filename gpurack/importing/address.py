"""Name, port and bind address of an entry."""

import re
from collections.abc import Sequence

from gpurack.importing.translation import Translation
from gpurack.inventory.fleet import CONTAINER_NAME
from gpurack.spec.image_ref import split


def choose_key(t: Translation) -> str:
    """The container's name; without a valid one, a name made from its model or image."""
    served = next((t.flags.given[flag][-1] for flag in t.engine.flags_for("served_name") if flag in t.flags.given), "")
    return valid_key(t, str(served or t.model or split(t.run.image)[0]))


def valid_key(t: Translation, like: str) -> str:
    """The container's name; without a valid one, a name made from the last part of another name or path."""
    if t.run.name and re.fullmatch(CONTAINER_NAME, t.run.name):
        return t.run.name
    path = like.rstrip("/").rsplit("/", 1)[-1]
    stem = re.sub(r"\.(gguf|bin|safetensors)$", "", path)
    key = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._") or t.engine.name
    key = key if re.fullmatch(CONTAINER_NAME, key) else f"{t.engine.name}-{key}"  # Docker requires two characters
    why = f'"{t.run.name}" is not a valid entry name (at least two letters)' if t.run.name else ""
    t.note("open", f'{why or "the container has no name"}; named "{key}".')
    return key


def port_in(command: Sequence[str]) -> int | None:
    """The number behind `--port` of an unknown program; None without one.

    >>> port_in(["serve", "--port=9997"]), port_in(["--port", "80"]), port_in(["--port", "$P"])
    (9997, 80, None)
    """
    found = re.search(r"(?:^|\s)--port[=\s](\d+)(?=\s|$)", " ".join(command))
    return int(found[1]) if found else None


def convert_address(t: Translation) -> None:
    """port and bind."""
    engine = t.engine
    named = ((flag, t.flags.take(flag)) for flag in engine.flags_for("port"))
    listens = next((t.number(f"--{flag}", value) for flag, value in named if value), None)
    for flag in engine.flags_for("bind"):
        t.flags.take(flag)
    if t.unknown and t.run.host_network:
        listens = listens or port_in(t.run.command)
    tcp = [port for port in t.run.ports if port.protocol == "tcp"]
    if t.run.host_network and tcp:
        t.note("changed", "-p is left out: Docker ignores it beside the host's network.")
        listens, tcp = listens or (tcp[0].container if t.unknown else None), []
    inside = listens or t.listens or getattr(engine, "port", None) or (tcp[0].container if tcp else 8000)
    ours = next((port for port in tcp if port.container == inside), tcp[0] if tcp else None)
    if ours and ours.container != inside and not t.unknown:
        t.note("open", f"port {ours.host} was mapped to container port {ours.container}, but the server listens on "
              f"{inside}; gpurack publishes that port.")  # fmt: skip
    for port in () if t.run.host_network else t.run.ports:
        if port is not ours:
            t.note("open", f"port {port.host or ''}:{port.container}/{port.protocol} was not converted; an "
                  "entry has one port.")  # fmt: skip
    if ours:
        port_number, bind = ours.host, {"": "any", "0.0.0.0": "any", "127.0.0.1": "loopback"}.get(ours.ip, ours.ip)
        if bind.startswith("$"):
            t.note("open", f"its address is {bind}; set to loopback.")
            bind = "loopback"
        if port_number is None:
            port_number = inside
            why = f"its port is {ours.unset}" if ours.unset else "Docker chose the port at every start"
            t.note("open", f"{why}; set to {inside}.")
        inside = ours.container
    elif t.run.host_network:
        port_number, bind = inside, "any"
        t.note("changed", f"used the host's network; gpurack publishes port {inside} instead.")
        if t.unknown and not listens:
            t.note("open", f"its port is not in the text; set to {inside}.")
    else:
        port_number, bind = inside, "loopback"
        t.note("open", f"publishes no port; gpurack publishes {inside} on the host's loopback. Set `bind` to make it "
              "reachable.")  # fmt: skip
    t.inside = (listens or inside, inside if t.unknown else engine.port)
    if t.unknown and inside != port_number:
        t.compose["expose"] = list(dict.fromkeys([str(inside), *map(str, t.compose.get("expose") or [])]))
    t.fields["port"], t.fields["bind"] = port_number, bind
    t.open = bind not in ("loopback",)
