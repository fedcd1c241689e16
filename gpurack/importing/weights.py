"""What a container serves, as `weights` or `config` of its entry."""

import re
from typing import Any

from gpurack.host_data import json_from_host
from gpurack.importing import secret
from gpurack.importing.translation import WINDOWS, Translation


def say_weights(t: Translation) -> None:
    """`weights`, or `config`, by what the engine was told to load."""
    engine = t.engine
    named = [flag for flag, place in engine.own_args.items() if place == "weights" and flag != "revision"]
    given = next((flag for flag in named if flag in t.flags.given), None)
    t.model = t.flags.take(given) if given else None
    revision = t.flags.take("revision") if given else None
    for flag in named:
        if flag in t.flags.given and not (flag == "hf-file" and given in ("hf", "hf-repo")):
            t.say("open", f"--{flag} {t.flags.take(flag)} could not be expressed beside {t.model}.")
    in_file = next((flag for flag, place in engine.own_args.items() if place == "config"), "")
    config = t.flags.take(in_file)
    if config is not None:
        say_config(t, config)
        return
    if t.model is None:
        return
    hub = given in ("hf", "hf-repo")
    file = files_named[0] if hub and (files_named := t.flags.given.pop("hf-file", [])) else None
    if given == "model-url":
        url = secret.hidden_words([t.model])[0]
        t.fields["weights"] = {"url": url, "sha256": "UNKNOWN"}
        if url != t.model:
            t.say("open", f"the URL of its weights holds a password, here {secret.HIDDEN}; give one without, "
                  '{"hf": …} with the host\'s hf_token, or {"copy": …}.')  # fmt: skip
        t.say("open", "the sha256 of its weights is not known; write it (sha256sum FILE).")
    else:
        t.fields["weights"] = weights_of(t, t.model, revision, hub)
        if hub and isinstance(t.fields["weights"], dict):
            t.fields["weights"]["file"] = file or "UNKNOWN.gguf"
            if not file:
                t.say("open", f"-hf chooses a file of {t.model} by itself (Q4_K_M, unless told otherwise); "
                      "write which one it is.")  # fmt: skip


def weights_of(t: Translation, model: str, revision: str | None, hub: bool = False) -> Any:
    """`weights` for what the engine was told: a path inside, or a repository."""
    if not hub and (model.startswith("/") or WINDOWS.match(model)):
        found = t.on_host(model)
        if found is None:
            t.say("open", f"{model} lies in no mount, so in the image itself; put the weights on the host and "
                  "write their path.")  # fmt: skip
            return model
        path, mount = found
        if mount:
            t.used.add(mount)
        if path.endswith((".bin", ".ggml")) and t.engine.weights_suffixes == (".gguf",):
            t.say("open", f"{path} is a GGML file, which {t.engine.name} has not read since August 2023; get the "
                  "model as GGUF.")  # fmt: skip
        return path
    if "$" in model:
        return model
    repository, _, quant = model.partition(":")
    if quant:
        t.say("open", f"the choice of {quant} in {model} could not be expressed.")
    if not re.fullmatch(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+", repository):
        t.say("open", f"{model} is neither a path in a mount nor a repository with its owner.")
        return model
    modelscope = t.environment.pop(t.dialect.modelscope, "")
    place = "modelscope" if modelscope.lower() in ("1", "true") else "hf"
    if revision is None:
        t.say("open", f"the weights of {repository} follow a branch; add their revision (a commit).")
    return {place: repository, **({"revision": revision} if revision else {})}


def say_config(t: Translation, inside: str) -> None:
    """A file of settings (CONFIG_FILE): its content, with the models' paths on the host."""
    found = t.on_host(inside)
    path = found[0] if found else inside
    text = t.known.files.get(path)
    if found and found[1]:
        t.used.add(found[1])
    if text is None:
        t.say("open", f"its settings are in {path}; give the file with --file {path}=COPY to have them here.")
        t.fields["config"] = {"models": []}
        return
    try:
        config = json_from_host(text)
    except ValueError as error:
        t.say("open", f"{path} is no JSON ({error}).")
        return
    if not isinstance(config, dict):
        t.say("open", f"{path} holds no object.")
        return
    for key in ("host", "port"):
        if config.pop(key, None) is not None:
            t.say("changed", f"{key} of {path} is left out: the inventory's port and bind say it.")
    if config.pop("api_key", None) is not None:
        t.say_key(None)
    for model in config.get("models", []):
        if isinstance(model.get("model"), str):
            model["model"] = weights_of(t, model["model"], None)
    t.fields["config"] = config
    t.say("changed", f"the settings of {path} are written out; gpurack makes the file.")
