"""The engine's flags in what a container runs: its command, or the script that it starts."""

from collections.abc import Sequence

from gpurack.importing import flags as flags_of
from gpurack.importing import secret, words
from gpurack.importing.container import Finding
from gpurack.importing.translation import Translation


def read_arguments(t: Translation) -> flags_of.Flags | None:
    """The engine's flags; None when the command is not the engine's own, so that it can only be kept as it is."""
    command = [*(t.run.entrypoint or ()), *t.run.command]
    if t.unknown:
        return None
    script = read_script(t, command)
    if script is not None:
        command = script
    for program in t.dialect.programs:
        if tuple(command[: len(program)]) == program:
            command = command[len(program) :]
            break
    found = flags_of.parse(command, t.dialect)
    if t.dialect.positional and command[:1] == found.positional[:1] and "/" in "".join(command[:1]):
        found.given.setdefault("model", [found.positional.pop(0)])
    if found.positional and command[:1] == found.positional[:1]:
        t.say("open", f"its command `{secret.masked(command, 60)}` is not {t.engine.name}'s own, so it is kept "
              "as it is, with engine custom.")  # fmt: skip
        return None
    if found.positional:
        t.say("open", f"these words could not be expressed: {' '.join(found.positional)}.")
    if found.strange:
        t.say("open", f"these flags could not be expressed: {' '.join(found.strange)}.")
    return found


def read_script(t: Translation, command: Sequence[str]) -> list[str] | None:
    """The engine's command in a script that the container runs, when the script was given."""
    if len(command) != 2 or command[0].rsplit("/", 1)[-1] not in ("sh", "bash"):
        return None
    path = t.on_host(command[1])
    text = t.known.files.get(path[0]) if path else None
    if path is None or text is None:
        where = path[0] if path else command[1]
        t.say("open", f"it runs a script; give it with --file {where}=SCRIPT to have its flags read.")
        return None
    read = words.read(text, t.known.variables)
    t.findings += [Finding(found.kind, f"{t.where}, {command[1]}", found.what) for found in read.findings]
    for one in reversed(read.commands):
        rest = one.words[1:] if one.words[:1] == ("exec",) else one.words
        if any(rest[: len(program)] == program for program in t.dialect.programs):
            t.scripts |= {path[1]} if path[1] else set()
            t.say("changed", f"the flags of {command[1]} are written out; the script itself is not used.")
            return without_commands(t, list(rest))
    t.say("open", f"{command[1]} starts nothing that is {t.engine.name}'s.")
    return None


def without_commands(t: Translation, command: list[str]) -> list[str]:
    """Flags whose value a command computes at the start are left to the engine."""
    kept: list[str] = []
    for word in command:
        if word.startswith(("$(", "`")) and kept and flags_of.is_flag(kept[-1]):
            t.say("open", f"{kept.pop()} was computed by {word} at the start; it is left to {t.engine.name}.")
        else:
            kept.append(word)
    return kept
