"""Convert what a container serves to `weights` or `config`."""

import re
from typing import Any

from gpurack.host_data import json_from_host
from gpurack.importing import secret
from gpurack.importing.translation import WINDOWS, Translation

SNAPSHOT = re.compile(r"/models--([\w.-]+?)--([\w.-]+)/snapshots/([0-9a-f]{7,40})(?:/([^/]+\.gguf))?/?$")
"""A path in the cache of Hugging Face's hub."""


def convert_weights(t: Translation) -> None:
    """Set `weights` or `config` by the engine's model flags."""
    engine = t.engine
    named = [flag for flag in engine.flags_for("weights") if flag != "revision"]
    given = next((flag for flag in named if flag in t.flags.given), None)
    t.model = t.flags.take(given) if given else None
    revision = t.flags.take("revision") if given else None
    for flag in named:
        if flag in t.flags.given and not (flag == t.dialect.repository_file and given in t.dialect.repositories):
            t.note("open", f"--{flag} {t.flags.take(flag)} was not converted, because {t.model} is already set.")
    in_file = next(iter(engine.flags_for("config")), "")
    config = t.flags.take(in_file)
    if config is not None:
        convert_config(t, config)
        return
    if t.model is None:
        return
    hub = given in t.dialect.repositories
    file = t.flags.take(t.dialect.repository_file) if hub else None
    if given == t.dialect.url:
        url = secret.mask_words([t.model])[0]
        t.fields["weights"] = {"url": url, "sha256": "UNKNOWN"}
        if url != t.model:
            t.note("open", f"the URL of its weights contains a password, shown as {secret.HIDDEN} here. Use a URL "
                  'without one, {"hf": …} with the host\'s hf_token, or {"copy": …}.')  # fmt: skip
        t.note("open", "the sha256 of its weights is not known. Set it (sha256sum FILE).")
    else:
        t.fields["weights"] = weights_of(t, t.model, revision, hub)
        if hub and isinstance(t.fields["weights"], dict):
            t.fields["weights"]["file"] = file or "UNKNOWN.gguf"
            if not file:
                t.note(
                    "open", f"-{given} chose a file of {t.model} ({t.dialect.default_file}). Set `file` to its name."
                )


def weights_of(t: Translation, model: str, revision: str | None, hub: bool = False) -> Any:
    """The value of `weights` for a model flag: a path in the container, or a repository."""
    if snapshot := SNAPSHOT.search(model):
        owner, name, commit, file = snapshot.groups()
        return {"hf": f"{owner}/{name}", "revision": commit, **({"file": file} if file else {})}
    if not hub and (model.startswith("/") or WINDOWS.match(model)):
        found = t.on_host(model)
        if found is None:
            t.note("open", f"{model} is in no mount, so it is part of the image. Copy the weights to the host and set "
                  "their path.")  # fmt: skip
            return model
        path, mount = found
        if mount:
            t.used.add(mount)
        if path.endswith((".bin", ".ggml")) and t.engine.weights_suffixes == (".gguf",):
            t.note("open", f"{path} is a GGML file, which {t.engine.name} does not support since August 2023. Use a "
                  "GGUF file of the model.")  # fmt: skip
        return path
    if "$" in model:
        return model
    repository, _, quant = model.partition(":")
    if quant and not hub:
        t.note("open", f"{quant} of {model} was not converted.")
    if not re.fullmatch(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+", repository):
        t.note("open", f"{model} is neither a path in a mount nor OWNER/REPOSITORY.")
        return model
    modelscope = t.environment.pop(t.dialect.modelscope, "")
    place = "modelscope" if modelscope.lower() in ("1", "true") else "hf"
    if revision is None:
        t.note("open", f"the weights of {repository} follow a branch. Add a revision (a commit).")
    return {place: repository, **({"revision": revision} if revision else {})}


def convert_config(t: Translation, inside: str) -> None:
    """Set `config` to the content of a settings file (CONFIG_FILE), with the models' paths on the host."""
    path, text = t.file(inside)
    if text is None:
        t.note("open", f"its settings are in {path}. Pass --file {path}=COPY to import them.")
        t.fields["config"] = {"models": []}
        return
    try:
        config = json_from_host(text)
    except ValueError as error:
        t.note("open", f"{path} is not valid JSON ({error}).")
        return
    if not isinstance(config, dict):
        t.note("open", f"{path} is not a JSON object.")
        return
    for key in ("host", "port"):
        if config.pop(key, None) is not None:
            t.note("changed", f"{key} of {path} is left out: port and bind of the entry set it.")
    if config.pop("api_key", None) is not None:
        t.set_api_key("")
    for model in config.get("models", []):
        if isinstance(model.get("model"), str):
            model["model"] = weights_of(t, model["model"], None)
    t.fields["config"] = config
    t.note("changed", f"the settings in {path} became config; gpurack writes the file.")
