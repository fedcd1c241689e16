"""Read the engine's flags from a container's command, or from the script that it starts."""

from collections.abc import Sequence

from gpurack.importing import flags as flags_of
from gpurack.importing import secret, words
from gpurack.importing.container import Finding
from gpurack.importing.translation import Translation


def read_arguments(t: Translation) -> flags_of.Flags | None:
    """The engine's flags; None if the command is not the engine's own and must be kept unchanged."""
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
        shown = secret.masked_command(command, 60)
        t.note("open", f"`{shown}` is not a {t.engine.name} command. It is kept, with engine custom.")
        return None
    if found.positional:
        t.note("open", f"arguments not converted: {' '.join(found.positional)}.")
    if found.strange:
        t.note("open", f"flags not converted: {' '.join(found.strange)}.")
    return found


def read_script(t: Translation, command: Sequence[str]) -> list[str] | None:
    """The engine's command in a script that the container runs; None without one, or if --file does not give it."""
    if len(command) != 2 or command[0].rsplit("/", 1)[-1] not in ("sh", "bash"):
        return None
    path = t.on_host(command[1])
    text = t.known.files.get(path[0]) if path else None
    if path is None or text is None:
        where = path[0] if path else command[1]
        t.note("open", f"runs a script. Pass it with --file {where}=SCRIPT to import its flags.")
        return None
    read = words.read(text, t.known.variables)
    t.findings += [Finding(found.kind, f"{t.where}, {command[1]}", found.what) for found in read.findings]
    for one in reversed(read.commands):
        rest = one.words[1:] if one.words[:1] == ("exec",) else one.words
        if any(rest[: len(program)] == program for program in t.dialect.programs):
            t.scripts |= {path[1]} if path[1] else set()
            t.note("changed", f"the flags in {command[1]} became fields and args; the script is not used.")
            return without_commands(t, list(rest))
    t.note("open", f"{command[1]} contains no {t.engine.name} command.")
    return None


def without_commands(t: Translation, command: list[str]) -> list[str]:
    """The command without flags with a value computed by a shell command; the engine's default applies."""
    kept: list[str] = []
    for word in command:
        if word.startswith(("$(", "`")) and kept and flags_of.is_flag(kept[-1]):
            t.note(
                "open", f"{kept.pop()} was computed by {word}; it is left out, so {t.engine.name}'s default applies."
            )
        else:
            kept.append(word)
    return kept
