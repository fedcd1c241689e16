"""Convert a container's other settings: environment, connections, models to pull, mounts, Compose fields."""

import json
from typing import Any

from gpurack.engines.dialect import CONNECTS_TO, OWN_VOLUME
from gpurack.host_data import yaml_from_host
from gpurack.importing import secret
from gpurack.importing.compose_yaml import as_list
from gpurack.importing.container import Mount
from gpurack.importing.translation import Translation
from gpurack.spec.secret_names import holds_secret


def convert_environment(t: Translation) -> None:
    """Set `env`, without secrets. Those that only the container needs are to be put into a file on the host."""
    env: dict[str, str] = {}
    secrets: list[str] = []
    fetches = bool(t.engine.weights_folders or t.engine.weights_suffixes)
    for name, value in t.environment.items():
        own = t.dialect.variables.get(name) == CONNECTS_TO or (
            t.engine.compiled and t.engine.compiled.chose(name, value)
        )
        private = holds_secret(name, value) or secret.refers_to_secret(value)
        if own or (private and not value):
            continue  # an empty secret is as if it was not set
        if name in secret.HF_TOKENS and fetches:
            t.set_hf_token(name, value)
        elif private:
            secrets.append(name)
        elif name == "HF_ENDPOINT" and fetches:
            t.host["mirrors"] = {"huggingface": value}
            t.note("changed", "HF_ENDPOINT became `mirrors` of the host.")
        else:
            env[name] = value
    if secrets:
        keep_secrets(t, secrets)
    if env:
        t.fields["env"] = env


def keep_secrets(t: Translation, names: list[str]) -> None:
    """Name a file on the host for the container's own secrets: `env` is visible in docker inspect."""
    file = f"/root/{t.key}.env"
    t.compose["env_file"] = [*as_list(t.compose.get("env_file") or []), file]
    what = "is a secret" if len(names) == 1 else "are secrets"
    t.note("open", f"{', '.join(names)} {what} of the container. Write NAME=value to {file} on the host (mode 0600), "
           "because `env` is visible in docker inspect.")  # fmt: skip


def convert_connections(t: Translation) -> None:
    """Set `connects_to` of a service to the addresses in its variables, which names.py makes names of entries."""
    if "connects_to" in t.engine.fields:
        given = [value for name, value in t.environment.items() if t.dialect.variables.get(name) == CONNECTS_TO]
        t.fields["connects_to"] = [url for value in given for url in value.split(";") if url] + urls_in_config(t)


def urls_in_config(t: Translation) -> list[str]:
    """The addresses in a gateway's configuration. Their keys are left out, and so are models of other providers."""
    if not t.engine.gateway or not (inside := t.flags.take("config")):
        return []
    path, text = t.file(inside)
    if text is None:
        t.note("open", f"its models are in {path}. Pass --file {path}=COPY to import which of them it connects to.")
        return []
    try:
        upstreams = t.engine.upstreams_of(yaml_from_host(text))
    except ValueError as error:
        t.note("open", f"{path} could not be read: {error}.")
        return []
    for upstream in upstreams:
        if upstream.url:
            t.without_file(t.environment.pop(upstream.key, ""))
        else:
            t.note("open", f"{upstream.name} in {path} is a model of another provider, which gpurack cannot offer.")
    t.note("changed", f"the models in {path} became connects_to; gpurack writes the file.")
    return [upstream.url for upstream in upstreams if upstream.url]


def convert_first_account(t: Translation) -> None:
    """Set `keys` to the first account, by the variables for its name and password."""
    user, password = (t.environment.get(name, "") for name in t.dialect.first_account or ("", ""))
    if user and password:
        variable = secret.variable_for(t.key, "PASSWORD")
        t.fields["keys"] = {user: {"env": variable}}
        for name in t.dialect.first_account:
            t.without_file(t.environment.pop(name))
        t.note("open", f"the password of {user} is left out. Export {variable}=… with it before gpurack plan.")


def convert_pulls(t: Translation) -> None:
    """Set `pull` to the models that were pulled in the container."""
    if "pull" not in t.engine.fields:
        return
    pulls = list(dict.fromkeys(t.known.pulls.get(t.run.name or "", ())))
    if pulls:
        t.fields["pull"] = pulls
    else:
        t.note("open", 'its models are not named. List them, for example pull: ["qwen2.5:7b"].')
    if not any(mount.target in t.dialect.caches for mount in t.run.mounts):
        t.note("changed", "had no volume for its models; gpurack adds one.")


def convert_mounts(t: Translation) -> None:
    """Copy the mounts that are not weights, scripts or caches to `compose.volumes`."""
    kept = []
    caches = {**t.dialect.caches, **({t.engine.compiled.folder: OWN_VOLUME} if t.engine.compiled else {})}
    texts = json.dumps([t.fields.get("args"), t.fields.get("env"), t.compose.get("command")])
    for mount in t.run.mounts:
        target, source = mount.target.rstrip("/"), mount.source or "an anonymous volume"
        if t.unknown or f"{target}/" in texts:
            kept.append(mount)
        elif target in caches:
            t.note("changed", f"{source} on {mount.target} is left out: {caches[target]}.")
        elif mount not in t.used | t.scripts:
            kept.append(mount)
        if mount in t.used and t.fields.get("weights"):
            t.note("changed", f"weights are mounted read-only below /weights instead of {mount.target}.")
    volumes = [volume(t, mount) for mount in kept]
    if volumes:
        t.compose["volumes"] = volumes


def volume(t: Translation, mount: Mount) -> dict[str, Any]:
    """A mount in Compose's long syntax."""
    settings: dict[str, Any] = {"type": mount.kind, "target": mount.target}
    if mount.source:
        settings["source"] = t.absolute(mount.source) if mount.kind == "bind" else mount.source
    if mount.kind == "volume":
        which = f"volume {mount.source}" if mount.source else "the anonymous volume"
        t.note("open", f"{which} on {mount.target} starts empty, because gpurack creates its own volumes "
               "(gpurack_NAME). Copy what you need.")  # fmt: skip
    for section, name, value in mount.options:
        settings.setdefault(section, {})[name] = value
    return {**settings, **({"read_only": True} if mount.read_only else {})}


def convert_compose(t: Translation) -> None:
    """Set `compose` to the remaining settings, without those that gpurack sets itself."""
    if not t.unknown:
        t.compose.pop("expose", None)  # without effect, and perhaps a port inside that has changed
    else:
        if t.run.command:
            t.compose["command"] = list(t.run.command)
        if t.run.entrypoint is not None:
            t.compose["entrypoint"] = list(t.run.entrypoint)
    if t.engine.shared_memory:
        own = f"gpurack gives {t.engine.name} up to {t.engine.shared_memory} of shared memory (shm_size)"
        if t.compose.get("ipc") == "host":
            del t.compose["ipc"]
            t.compose.pop("shm_size", None)  # the host's shared memory has its own size
            t.note("changed", f"ipc: host is left out: {own}.")
        elif not {"ipc", "shm_size"} & set(t.compose):
            t.note("changed", f"{own}, because Docker's default is too small.")
    if t.compose.get("restart") == "unless-stopped":
        del t.compose["restart"]
    elif "restart" not in t.compose:
        how = "ran in the foreground" if not t.run.detached else "had no restart policy"
        t.note("changed", f"{how}; gpurack restarts it after a crash or reboot (restart: unless-stopped).")
    for file in as_list(t.compose.get("env_file") or []):
        path = str(file.get("path") if isinstance(file, dict) else file)
        if not path.startswith("/"):
            t.note("open", f"env_file {path} is a relative path. Use the absolute path on the host.")
    if t.run.running:
        t.fields["replaces"] = t.run.name
    if t.compose:
        t.fields["compose"] = secret.mask(t.compose)
        if t.fields["compose"] != t.compose:
            t.note("open", f"its Compose fields contained a secret, shown as {secret.HIDDEN} here. Pass it by a file "
                  "instead.")  # fmt: skip
