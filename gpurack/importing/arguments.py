"""An engine's flags: those that are fields of the inventory, and what remains for `args`."""

from typing import Any

from gpurack.engines.args import normal
from gpurack.engines.dialect import CONNECTS_TO, CONTEXT
from gpurack.importing import flags as flags_of
from gpurack.importing.translation import Translation
from gpurack.spec.secret_names import is_secret


def environment_to_flags(t: Translation) -> None:
    """Variables that mean the same as a flag, and those that gpurack sets itself."""
    for name in list(t.environment):
        meaning = t.dialect.variables.get(name)
        if meaning in (None, CONNECTS_TO):
            continue
        value = t.environment.pop(name)
        if meaning == CONTEXT:
            t.fields["context"] = int(value)
        elif " " in meaning:
            t.say("changed", f"{name} is left out: {meaning}.")
        else:
            key = normal(meaning)
            t.flags.given.setdefault(key, [flags_of.typed(value)])
            t.flags.spelled.setdefault(key, meaning)


def say_rest_of_own_flags(t: Translation) -> None:
    """served_name, context, api_key: flags that gpurack writes itself."""
    engine = t.engine
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
    if t.dialect.named_by_weights and t.model and "served_name" not in t.fields and not t.named:
        t.fields["served_name"] = t.model
        t.say("changed", f'clients ask for "{t.model}", because no name was given; served_name keeps that.')
    if engine.keyless or "api_key" in engine.unused:
        if engine.keyless and t.open:
            t.fields["api_key"] = None
    elif t.open and "api_key" not in t.fields:
        t.say("open", f"everybody who reaches the host uses it without a key ({t.fields['bind']}); add "
              'api_key: {"env": …}, and bind: "lan".')  # fmt: skip


def say_context(t: Translation, tokens: int) -> None:
    """The longest prompt with its answer; the flag may be the sum for all slots of a server."""
    slots = t.engine.context_parts(t.flags.given)
    if slots > 1:
        if tokens % slots:
            t.say("open", f"{tokens} tokens of context for {slots} slots are {tokens // slots} each.")
        else:
            t.say("changed", f"{tokens} tokens of context for {slots} slots are {tokens // slots} each: context.")
        tokens //= slots
    if tokens > 0:
        t.fields["context"] = tokens


def say_args(t: Translation) -> None:
    """The engine's remaining flags, with today's names where the version is of today, or not known."""
    engine, dialect = t.engine, t.dialect
    args: dict[str, Any] = {}
    version = t.fields.get("version")
    old = version is not None and not engine.is_without_removed(str(version))  # which has its own flags
    for flag, values in t.flags.given.items():
        removed = None if old else engine.removed_args.get(flag)
        renamed, retold = dialect.renamed.get(flag), dialect.retold.get(flag, {}).get(str(values[-1]))
        if removed and retold is not None:
            args |= retold
            now = ", ".join(f"{name}: {value}" for name, value in retold.items()) or "nothing is needed"
            t.say("changed", f"{t.engine.name} has no --{flag} any more: {now}.")
        elif removed and renamed:
            args[renamed] = values[-1]
            t.say("changed", f"{t.engine.name} has no --{flag} any more: {renamed}.")
        elif removed:
            t.say("open", f"{t.engine.name} has no --{flag} any more: {removed} It is left out.")
        elif is_secret(flag):
            t.say("open", f"--{flag} is a secret and could not be expressed; it is left out and not repeated here.")
        else:
            name = t.flags.spelled.get(flag, flag) if dialect.keeps_spelling else flag
            args[name] = values[0] if len(values) == 1 else values
    for flag, what in dialect.assumed.items():
        if t.gpus and flag not in args:
            t.say("changed", f"it said nothing of --{flag}; {what}.")
    if args:
        t.fields["args"] = args
