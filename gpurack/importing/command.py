"""The program of a container: the engine's own, also behind a shell, an init process or a script; or another one."""

import re
from collections.abc import Mapping, Sequence

from gpurack.engines.known_flags import known
from gpurack.importing import flags as flags_of
from gpurack.importing import recognise, secret, words
from gpurack.importing.container import Finding
from gpurack.importing.translation import Translation

SHELLS = ("sh", "bash", "dash", "ash", "zsh")
INITS = ("tini", "dumb-init", "catatonit", "docker-init")
HARMLESS = ("echo", "printf", "set", "[", "[[", "test", ":", "true", "exit", "sleep")
"""Commands of a start script without an effect on the server."""
PROGRAM = re.compile(r"/(usr|bin|sbin|opt)/.*|.*\.(sh|py)|.*/bin/[^/]+")
"""Words that name a program, not a model."""


def program_of(run_words: Sequence[str], environment: Mapping[str, str]) -> list[str] | None:
    """The words of the program that a command becomes in the end; None if a shell does more than to start it.

    >>> program_of(["/bin/bash", "-c", "exec vllm serve a/b --port $P"], {"P": "80"})
    ['vllm', 'serve', 'a/b', '--port', '80']
    >>> program_of(["sh", "-c", "pip install x && vllm serve a/b"], {}) is None
    True
    """
    command = list(run_words)
    while command and recognise.base(command[0]) in INITS:
        command = command[command.index("--") + 1 :] if "--" in command else command[1:]
    if command[:1] == ["exec"]:
        command = command[1:]
    if len(command) < 2 or recognise.base(command[0]) not in SHELLS or not re.fullmatch(r"-[a-z]*c", command[1]):
        return command
    return one_command(command[2], environment) if len(command) == 3 else None


def after_exports(command: Sequence[str]) -> tuple[dict[str, str], list[str]] | None:
    """(variables, program) of a shell that only exports variables and then starts its arguments; None for others.

    >>> after_exports(["sh", "-c", 'export KEY="$(cat /k)"; exec "$@"', "sh", "vllm", "serve"])
    ({'KEY': '$(cat /k)'}, ['vllm', 'serve'])
    """
    if len(command) < 5 or recognise.base(command[0]) not in SHELLS or not re.fullmatch(r"-[a-z]*c", command[1]):
        return None
    read = words.read(command[2])
    started = [one.words for one in read.commands if one.words[0] not in HARMLESS]
    return (read.exported, list(command[4:])) if started == [("exec", "$@")] and not read.findings else None


def one_command(text: str, environment: Mapping[str, str]) -> list[str] | None:
    """The words of a shell text that only starts one program; None for any other text."""
    read = words.read(text, environment)
    if not read.plain or read.findings or len(read.commands) != 1 or read.commands[0].undefined:
        return None
    found = list(read.commands[0].words)
    return (found[1:] if found[0] == "exec" else found) or None


def read_arguments(t: Translation) -> flags_of.Flags | None:
    """The engine's flags; None if the command is not the engine's own and must be kept unchanged."""
    whole = [*(t.run.entrypoint or ()), *t.run.command]
    if t.unknown:
        return None
    if wrapper := after_exports(whole):
        exported, whole = wrapper
        t.environment |= exported
    own, started_by = t.engine.started_by(whole)
    t.environment |= own
    whole = list(started_by)
    if path := script_of(t, whole):
        script = read_script(t, path)
        return None if script is None else parsed(t, script)
    command = whole if tuple(whole) in t.dialect.programs else program_of(whole, t.environment)
    started = None if command is None else recognise.after_program(t.engine, command)
    image_starts_it = t.run.entrypoint is None and command == whole
    if started is None and not (image_starts_it and not PROGRAM.fullmatch((command or [""])[0])):
        kept(t, whole)
        return None
    return parsed(t, whole if started is None else started)


def parsed(t: Translation, command: list[str]) -> flags_of.Flags | None:
    """The flags after the engine's program; None if there is another program."""
    found = flags_of.parse(command, t.dialect, known(t.engine.name)[1])
    if t.dialect.positional and "/" in "".join(found.positional[:1]):
        found.given.setdefault("model", [found.positional.pop(0)])
    if found.positional and command[:1] == found.positional[:1]:
        kept(t, command)
        return None
    if found.positional:
        t.note("open", f"arguments not converted: {' '.join(found.positional)}.")
    if found.strange:
        t.note("open", f"flags not converted: {' '.join(found.strange)}.")
    return found


def kept(t: Translation, command: Sequence[str]) -> None:
    """Say that another program than the engine's is kept as it is."""
    shown = secret.masked_command(command, 60)
    t.note("open", f"`{shown}` is not only a {t.engine.name} command. It is kept, with engine custom.")


def script_of(t: Translation, command: Sequence[str]) -> str | None:
    """The path in the container of the script that a command starts: by a shell, or as a program of its own."""
    if command and recognise.base(command[0]) in SHELLS:
        operands = [word for word in command[1:] if not word.startswith("-")]
        text = any(re.fullmatch(r"-[a-z]*c", word) for word in command[1:2])
        return None if text or tuple(command) in t.dialect.programs else operands[0] if operands else None
    first = command[0] if command else ""
    if tuple(command[:1]) in t.dialect.programs:
        return None
    return first if first.endswith(".sh") and (t.run.entrypoint or t.in_mount(first)) else None


def read_script(t: Translation, inside: str) -> list[str] | None:
    """The engine's arguments in a script that the container runs.

    None if --file does not give it, or if it does more than to start the engine.
    """
    path, text = t.file(inside)
    if text is None:
        t.note("open", f"runs a script, kept with engine custom. Pass it with --file {path}=SCRIPT to import its "
               "flags.")  # fmt: skip
        return None
    read = words.read(text, {**t.environment, **t.known.variables})
    t.findings += [Finding(found.kind, f"{t.where}, {inside}", found.what) for found in read.findings]
    *before, last = [one.words[1:] if one.words[:1] == ("exec",) else one.words for one in read.commands] or [()]
    started = recognise.after_program(t.engine, last)
    if started is None:
        t.note("open", f"{inside} contains no {t.engine.name} command at its end. It is kept, with engine custom.")
        return None
    if prepares := [secret.masked_command(one, 40) for one in before if one[0] not in HARMLESS]:
        t.note(
            "open", f"{inside} runs `{prepares[0]}` before it starts {t.engine.name}. It is kept, with engine custom."
        )
        return None
    t.environment |= read.exported
    t.note("changed", f"the flags in {inside} became fields and args; the script is not used.")
    return without_commands(t, list(started))


def without_commands(t: Translation, command: list[str]) -> list[str]:
    """The command without flags with a value computed by a shell command; the engine's default applies."""
    kept_words: list[str] = []
    for word in command:
        if word.startswith(("$(", "`")) and kept_words and flags_of.is_flag(kept_words[-1]):
            t.note(
                "open",
                f"{kept_words.pop()} was computed by {word}; it is left out, so {t.engine.name}'s default applies.",
            )
        else:
            kept_words.append(word)
    return kept_words
