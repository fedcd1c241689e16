"""Convert an engine's flags to fields of the entry, and the rest to `args`."""

import re
from collections.abc import Sequence
from typing import Any

from gpurack.engines.args import with_dashes
from gpurack.engines.dialect import CONNECTS_TO, CONTEXT
from gpurack.importing import flags as flags_of
from gpurack.importing.translation import Translation
from gpurack.spec.secret_names import is_secret


def environment_to_flags(t: Translation) -> None:
    """Treat variables that equal a flag as that flag, and drop those that gpurack sets."""
    for name in list(t.environment):
        meaning = t.dialect.variables.get(name)
        if meaning in (None, CONNECTS_TO):
            continue
        value = t.environment.pop(name)
        if not value:
            continue  # as if it was not set
        t.without_file(value)
        if meaning == CONTEXT:
            if tokens := t.tokens(name, value):
                t.fields["context"] = tokens
        elif " " in meaning:
            t.note("changed", f"{name} is left out: {meaning}.")
        else:
            key = with_dashes(meaning)
            t.flags.given.setdefault(key, [flags_of.typed(value)])
            t.flags.spelled.setdefault(key, meaning)


def convert_own_flags(t: Translation) -> None:
    """Convert flags that gpurack generates from fields: served_name, context, api_key, hf_token."""
    engine = t.engine
    for flag, place in engine.own_args.items():
        if flag not in t.flags.given:
            continue
        values = t.flags.given.pop(flag)
        if place == "served_name":
            if more := [str(value) for value in values[1:]]:
                if engine.adds(flag, [*more]):
                    t.flags.given[flag] = list(more)
                else:
                    t.note("open", f"more served names were not converted: {', '.join(more)}.")
            if str(values[0]) != t.key:
                t.fields["served_name"] = str(values[0])
            t.named = True
        elif place == "context":
            if engine.adds(flag, values[-1]):
                t.flags.given[flag] = values[-1:]
            elif tokens := t.tokens(f"--{flag}", str(values[-1])):
                convert_context(t, tokens)
        elif place == "api_key":
            key = str(values[-1])
            t.set_api_key(key, key if flag.endswith("file") else None)
        elif place == "hf_token":
            t.set_hf_token(f"--{flag}", str(values[-1]))
        else:
            t.note("changed", f"--{flag} is left out: gpurack sets it from {place}.")
    if not engine.keyless and (value := t.flags.take("api-key")):  # set by a variable; the engine has no such flag
        t.set_api_key(value)
    if file := t.flags.take("api-key-file"):
        t.set_api_key("", file)
    if file := t.flags.take("keys-file"):
        t.set_keys(file)
    if t.dialect.named_by_weights and t.model and "served_name" not in t.fields and not t.named:
        t.fields["served_name"] = t.model
        t.note("changed", f'served_name is "{t.model}", the name that clients used: no other was set.')
    if engine.keyless or "api_key" in engine.unused:
        if engine.keyless and t.open:
            t.fields["api_key"] = None
    elif t.open and "api_key" not in t.fields:
        t.note("open", f"needs no API key and is reachable from other machines (bind: {t.fields['bind']}). Add "
              'api_key: {"env": …} and bind: "lan".')  # fmt: skip


def convert_context(t: Translation, tokens: int) -> None:
    """Set `context`: tokens of prompt and answer per slot. The flag may be the sum of all slots."""
    slots = int(t.engine.context_parts(t.flags.given))
    if slots > 1:
        if tokens % slots:
            t.note("open", f"context is {tokens // slots}: {tokens} tokens shared by {slots} slots, rounded down.")
        else:
            t.note("changed", f"context is {tokens // slots}: {tokens} tokens shared by {slots} slots.")
        tokens //= slots
    if tokens > 0:
        t.fields["context"] = tokens


def convert_args(t: Translation) -> None:
    """Set `args` to the engine's remaining flags, renamed for current versions unless the entry pins an old one."""
    engine, dialect = t.engine, t.dialect
    args: dict[str, Any] = {}
    version = t.fields.get("version")
    old = version is not None and not engine.is_without_removed(str(version))  # an old version still has old flags
    for flag, values in t.flags.given.items():
        removed = None if old else engine.removed_args.get(flag)
        renamed, replacement = dialect.renamed.get(flag), dialect.replacements.get(flag, {}).get(str(values[-1]))
        if removed and replacement is not None:
            args |= replacement
            now = ", ".join(f"{name}: {value}" for name, value in replacement.items())
            t.note("changed", f"{t.engine.name} removed --{flag}; {f'replaced by {now}' if now else 'not needed'}.")
        elif removed and renamed:
            args[renamed] = values[-1]
            t.note("changed", f"{t.engine.name} removed --{flag}; replaced by {renamed}.")
        elif removed:
            t.note("open", f"{t.engine.name} removed --{flag}: {removed} It is left out.")
        elif is_secret(flag):
            t.note("open", f"--{flag} is a secret; it is left out.")
        elif flag in dialect.hub and len(values) == 1 and str(values[0]) in (t.model, hub_of(t)):
            t.note("changed", f"--{flag} is left out: it names the weights themselves.")
        else:
            if flag in dialect.hub and (named := hub_names(values)):
                t.note("open", f"--{flag} names {', '.join(named)} of the hub, but gpurack starts {engine.name} "
                      "offline. Copy it to the host, mount it with compose.volumes, and set its path.")  # fmt: skip
            name = t.flags.spelled.get(flag, flag) if dialect.keeps_spelling else flag
            is_list = len(values) > 1 or (flag in t.engine.own_args and flag in dialect.several)
            args[name] = values if is_list else values[0]
    for flag, what in dialect.assumed.items():
        if t.gpus and flag not in args:
            t.note("changed", f"--{flag} was not set; {what}.")
    if args:
        t.fields["args"] = args


def hub_of(t: Translation) -> str:
    """The repository of its weights, "" without one."""
    weights = t.fields.get("weights")
    return str(weights.get("hf", "")) if isinstance(weights, dict) else ""


def hub_names(values: Sequence[Any]) -> list[str]:
    """The repositories of the hub in values of flags, also in JSON and behind `name=`.

    >>> hub_names(["sql=org/lora", '{"model": "org/draft"}', "/m/x", "a/b/c"])
    ['org/lora', 'org/draft']
    >>> hub_names(["org/draft-GGUF:Q4_0", "org/tok@main"])
    ['org/draft-GGUF', 'org/tok']
    """
    return [
        found for value in values for found in re.findall(r"""(?:^|[="])([\w.-]+/[\w.-]+)(?=$|[":@])""", str(value))
    ]
