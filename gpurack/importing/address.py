"""What an entry is called, and where it answers."""

import re

from gpurack.importing.translation import Translation
from gpurack.spec.fleet import CONTAINER_NAME
from gpurack.spec.image_ref import split


def choose_key(t: Translation) -> str:
    """The container's name; without one, something that says what it is."""
    if t.run.name and re.fullmatch(CONTAINER_NAME, t.run.name):
        return t.run.name
    served = t.flags.given.get("served-model-name", t.flags.given.get("alias", [""]))[-1]
    path = str(served or t.model or split(t.run.image)[0]).rstrip("/").rsplit("/", 1)[-1]
    stem = re.sub(r"\.(gguf|bin|safetensors)$", "", path)
    key = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._") or t.engine.name
    key = key if re.fullmatch(CONTAINER_NAME, key) else f"{t.engine.name}-{key}"  # Docker wants two letters
    why = f'the container\'s name "{t.run.name}" is none for an entry (two letters or more)' if t.run.name else ""
    t.say("open", f'{why or "the container has no name"}; "{key}" is chosen.')
    return key


def say_address(t: Translation) -> None:
    """port and bind."""
    engine = t.engine
    said = [flag for flag, place in engine.own_args.items() if place == "port"]
    listens = next((int(value) for flag in said if (value := t.flags.take(flag))), None)
    for flag in [flag for flag, place in engine.own_args.items() if place == "bind"]:
        t.flags.given.pop(flag, None)
    tcp = [port for port in t.run.ports if port.protocol == "tcp"]
    inside = listens or t.listens or getattr(engine, "port", None) or (tcp[0].container if tcp else 8000)
    ours = next((port for port in tcp if port.container == inside), tcp[0] if tcp else None)
    if ours and ours.container != inside and not t.unknown:
        t.say("open", f"port {ours.host} leads to {ours.container} inside, where nothing answers: it listens on "
              f"{inside}. gpurack publishes what it listens on.")  # fmt: skip
    for port in t.run.ports:
        if port is not ours:
            t.say("open", f"port {port.host or ''}:{port.container}/{port.protocol} could not be expressed; an "
                  "entry has one port.")  # fmt: skip
    if ours:
        port_number, bind = ours.host, {"": "any", "0.0.0.0": "any", "127.0.0.1": "loopback"}.get(ours.ip, ours.ip)
        if port_number is None:
            port_number = inside
            t.say("open", f"Docker chose its port at every start; {inside} is written.")
        inside = ours.container
    elif t.run.host_network:
        port_number, bind = inside, "any"
        t.say("changed", f"it shared the host's network; gpurack publishes port {inside} instead.")
    else:
        port_number, bind = inside, "loopback"
        t.say("open", f"it publishes no port, so nobody outside its host's containers reaches it; gpurack "
              f"publishes {inside} on the host's loopback.")  # fmt: skip
    if t.unknown and inside != port_number:
        t.compose["expose"] = [str(inside)]
    t.fields["port"], t.fields["bind"] = port_number, bind
    t.open = bind not in ("loopback",)
