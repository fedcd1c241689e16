"""What else a container was given: environment, connections, models to pull, mounts, Compose's words."""

import json
import re
from typing import Any

from gpurack.engines.dialect import CONNECTS_TO
from gpurack.importing import secret
from gpurack.importing.container import Mount
from gpurack.importing.translation import Translation
from gpurack.spec.secret_names import holds_secret


def say_environment(t: Translation) -> None:
    """`env`, without secrets."""
    env: dict[str, str] = {}
    for name, value in t.environment.items():
        if t.dialect.variables.get(name) == CONNECTS_TO:
            continue
        if name in secret.HF_TOKENS:
            t.say_token(name, value)
        elif holds_secret(name, value):
            t.say("open", f"{name} is a secret, which `env` would show to everybody in docker inspect; it is "
                  "left out and not repeated here. Put it into a file on the host: compose: "
                  '{"env_file": ["/…"]}.')  # fmt: skip
        elif name == "HF_ENDPOINT":
            t.host["mirrors"] = {"huggingface": value}
            t.say("changed", "HF_ENDPOINT is the host's mirror now.")
        else:
            env[name] = value
    for name in t.environment_without_value:
        if name in secret.HF_TOKENS:
            t.host["hf_token"] = {"env": name}
        elif t.dialect.variables.get(name) in ("api-key", "api_key"):
            t.fields["api_key"] = {"env": name}
        else:
            t.say("open", f"{name} came from the environment of whoever started it; give its value in env.")
    if env:
        t.fields["env"] = env


def say_connections(t: Translation) -> None:
    """`connects_to` of a service, by the addresses in its variables."""
    if "connects_to" not in t.engine.fields:
        return
    names: list[str] = []
    for name, value in t.environment.items():
        if t.dialect.variables.get(name) != CONNECTS_TO:
            continue
        for url in filter(None, value.split(";")):
            host = re.sub(r"^https?://", "", url).split("/")[0].split(":")[0]
            if host in t.known.names:
                names.append(t.known.names[host])
            else:
                t.say("open", f"it connects to {host}, which is none of these containers; name the entry in "
                      "connects_to.")  # fmt: skip
    t.fields["connects_to"] = list(dict.fromkeys(names)) or "all"


def say_pulls(t: Translation) -> None:
    """`pull`, by what somebody pulled in it."""
    if "pull" not in t.engine.fields:
        return
    pulls = list(dict.fromkeys(t.known.pulls.get(t.run.name or "", ())))
    if pulls:
        t.fields["pull"] = pulls
    else:
        t.say("open", 'which models it serves is not said; name them in pull: ["qwen2.5:7b"].')
    if not any(mount.target in t.dialect.caches for mount in t.run.mounts):
        t.say("changed", "it had no volume, so its models were gone with the container; gpurack keeps them in one.")


def say_mounts(t: Translation) -> None:
    """What remains of the mounts once the weights are said; caches are gpurack's."""
    kept = []
    said = json.dumps([t.fields.get("args"), t.fields.get("env"), t.compose.get("command")])
    for mount in t.run.mounts:
        if t.unknown:
            kept.append(mount)
        elif mount.target.rstrip("/") in t.dialect.caches:
            source = mount.source or "a volume without a name"
            t.say(
                "changed",
                f"{source} on {mount.target} is left out: {t.dialect.caches[mount.target.rstrip('/')]}.",
            )
        elif mount not in t.used | t.scripts or f"{mount.target.rstrip('/')}/" in said:
            kept.append(mount)
        if mount in t.used and t.fields.get("weights"):
            t.say("changed", f"its weights are mounted read-only below /weights, not at {mount.target}.")
    volumes = [volume(t, mount) for mount in kept]
    if volumes:
        t.compose["volumes"] = volumes


def volume(t: Translation, mount: Mount) -> dict[str, Any]:
    """A mount in Compose's words."""
    said: dict[str, Any] = {"type": mount.kind, "target": mount.target}
    if mount.source:
        said["source"] = t.absolute(mount.source) if mount.kind == "bind" else mount.source
    if mount.kind == "volume":
        t.say("open", f"the volume {mount.source or 'without a name'} on {mount.target} starts empty: gpurack's "
              "volumes are its own (gpurack_NAME); copy what is needed.")  # fmt: skip
    return {**said, **({"read_only": True} if mount.read_only else {})}


def say_compose(t: Translation) -> None:
    """The rest in Compose's words, but for what gpurack does anyway."""
    if t.unknown:
        if t.run.command:
            t.compose["command"] = list(t.run.command)
        if t.run.entrypoint:
            t.compose["entrypoint"] = list(t.run.entrypoint)
    if t.engine.shared_memory:
        own = f"{t.engine.name} gets up to {t.engine.shared_memory} of shared memory of its own (shm_size)"
        if t.compose.get("ipc") == "host":
            del t.compose["ipc"]
            t.compose.pop("shm_size", None)  # the host's has its own size
            t.say("changed", f"ipc: host is left out: {own}.")
        elif not {"ipc", "shm_size"} & set(t.compose):
            t.say("changed", f"{own}: it needs more than Docker gives.")
    if t.compose.get("restart") == "unless-stopped":
        del t.compose["restart"]
    elif "restart" not in t.compose:
        how = "it ran in the foreground" if t.run.interactive or not t.run.detached else "it had no restart policy"
        t.say("changed", f"{how}; gpurack runs it as a service, again after a crash and a reboot (unless-stopped).")
    for file in t.compose.get("env_file", []) if isinstance(t.compose.get("env_file"), list) else []:
        if not str(file).startswith("/"):
            t.say("open", f"env_file {file}: write its absolute path on the host.")
    if t.run.running:
        t.fields["replaces"] = t.run.name
    if t.compose:
        t.fields["compose"] = secret.hidden(t.compose)
        if t.fields["compose"] != t.compose:
            t.say("open", f"a secret stood in plain text in its compose words; it is {secret.HIDDEN} here. Give "
                  "it to the program by a file.")  # fmt: skip
