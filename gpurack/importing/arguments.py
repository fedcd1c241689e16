"""An engine's flags: those that are fields of the inventory, and what remains for `args`."""

from typing import Any

from gpurack.engines import ENGINES
from gpurack.engines.args import normal
from gpurack.importing import flags as flags_of
from gpurack.importing.recognise import PARALLEL_FLAGS
from gpurack.importing.translation import Translation
from gpurack.spec.secret_names import is_secret

RENAMED = {
    "vllm": {
        "guided-decoding-backend": "structured-outputs-config.backend",
        "override-pooler-config": "pooler-config",
        "max-seq-len-to-capture": "max-cudagraph-capture-size",
    }
}
"""Flags that only have another name today."""
TASKS = {
    "generate": {}, "auto": {},
    "embedding": {"runner": "pooling", "convert": "embed"}, "embed": {"runner": "pooling", "convert": "embed"},
    "classify": {"runner": "pooling", "convert": "classify"}, "score": {"runner": "pooling", "convert": "classify"},
}  # fmt: skip
"""vLLM's --task → what says the same today."""


def environment_to_flags(t: Translation) -> None:
    """Variables that mean the same as a flag, and those that gpurack sets itself."""
    for name in list(t.environment):
        meaning = t.dialect.variables.get(name)
        if meaning is None or meaning == "connects_to":
            continue
        value = t.environment.pop(name)
        if meaning == "context":
            t.fields["context"] = int(value)
        elif " " in meaning:
            t.say("changed", f"{name} is left out: {meaning}.")
        else:
            key = normal(meaning)
            t.flags.given.setdefault(key, [flags_of.typed(value)])
            t.flags.spelled.setdefault(key, meaning)


def say_rest_of_own_flags(t: Translation) -> None:
    """served_name, context, api_key: flags that gpurack writes itself."""
    engine = ENGINES[t.engine]
    for flag, place in engine.own_args.items():
        if flag not in t.flags.given:
            continue
        values = t.flags.given.pop(flag)
        if place == "served_name":
            if len(values) > 1:
                t.say("open", f"its further names could not be expressed: {', '.join(map(str, values[1:]))}.")
            if str(values[0]) != t.key:
                t.fields["served_name"] = str(values[0])
            t.named = True
        elif place == "context":
            say_context(t, int(values[-1]))
        elif place == "api_key" and flag.endswith("file"):
            t.say("open", f'its key is in {values[-1]}; say where it is on your machine: api_key: {{"file": …}}.')
        elif place == "api_key":
            t.say_key(str(values[-1]))
        elif place == "hf_token":
            t.say_token(f"--{flag}", str(values[-1]))
        else:
            t.say("changed", f"--{flag} is left out: gpurack sets it from {place}.")
    if not engine.keyless and "api-key" in t.flags.given:  # a variable's alone; the engine has no such flag
        t.say_key(str(t.flags.given.pop("api-key")[-1]))
    # Without a name vLLM and SGLang answer by what they were told to load.
    if t.engine in PARALLEL_FLAGS and t.model and "served_name" not in t.fields and not t.named:
        t.fields["served_name"] = t.model
        t.say("changed", f'clients ask for "{t.model}", because no name was given; served_name keeps that.')
    if engine.keyless or "api_key" in engine.unused:
        if engine.keyless and t.open:
            t.fields["api_key"] = None
    elif t.open and "api_key" not in t.fields:
        t.say("open", f"everybody who reaches the host uses it without a key ({t.fields['bind']}); add "
              'api_key: {"env": …}, and bind: "lan".')  # fmt: skip


def say_context(t: Translation, tokens: int) -> None:
    """The longest prompt with its answer; llama.cpp's flag is the sum for all its slots."""
    given = t.flags.given
    slots = int(given["parallel"][-1]) if t.engine == "llama.cpp" and "parallel" in given else 1
    if slots > 1 and not {"kv-unified", "kvu"} & set(given):
        if tokens % slots:
            t.say("open", f"{tokens} tokens of context for {slots} slots are {tokens // slots} each.")
        else:
            t.say("changed", f"{tokens} tokens of context for {slots} slots are {tokens // slots} each: context.")
        tokens //= slots
    if tokens > 0:
        t.fields["context"] = tokens


def say_args(t: Translation) -> None:
    """The engine's remaining flags, with today's names where the version is of today, or not known."""
    engine = ENGINES[t.engine]
    args: dict[str, Any] = {}
    version = t.fields.get("version")
    old = version is not None and not engine.is_without_removed(str(version))  # which has its own flags
    for flag, values in t.flags.given.items():
        removed = None if old else engine.removed_args.get(flag)
        renamed = RENAMED.get(t.engine, {}).get(flag)
        if flag == "task" and removed and str(values[-1]) in TASKS:
            args |= TASKS[str(values[-1])]
            now = ", ".join(f"{name}: {value}" for name, value in TASKS[str(values[-1])].items()) or "nothing is needed"
            t.say("changed", f"{t.engine} has no --task any more: {now}.")
        elif removed and renamed:
            args[renamed] = values[-1]
            t.say("changed", f"{t.engine} has no --{flag} any more: {renamed}.")
        elif removed:
            t.say("open", f"{t.engine} has no --{flag} any more: {removed} It is left out.")
        elif is_secret(flag):
            t.say("open", f"--{flag} is a secret and could not be expressed; it is left out and not repeated here.")
        else:
            name = t.flags.spelled.get(flag, flag) if t.engine == "llama-cpp-python" else flag
            args[name] = values[0] if len(values) == 1 else values
    if t.engine == "llama.cpp" and t.gpus and "n-gpu-layers" not in args:
        t.say("changed", "it said nothing of --n-gpu-layers; gpurack puts all layers on the cards.")
    if "config" in args and t.engine == "litellm":
        t.say(
            "open",
            f"its models are in {args.pop('config')}, which gpurack writes itself: name them in connects_to.",
        )
    if args:
        t.fields["args"] = args
