"""The program of a container: the engine's own, also behind a shell, an init process or a script; or another one."""

import re
from collections.abc import Mapping, Sequence

from gpurack.engines.known_flags import known
from gpurack.importing import flags as flags_of
from gpurack.importing import recognise, secret, words
from gpurack.importing.container import Finding
from gpurack.importing.translation import Translation
from gpurack.spec.secret_names import is_secret

SHELLS = ("sh", "bash", "dash", "ash", "zsh")
INITS = ("tini", "dumb-init", "catatonit", "docker-init", "env")
HARMLESS = ("echo", "printf", "set", "[", "[[", "test", ":", "true", "exit", "sleep")
"""Commands of a start script without an effect on the server."""
PROGRAM = re.compile(r"/(usr|bin|sbin|opt)/.*|.*\.(sh|py)|.*/bin/[^/]+")
"""Words that name a program, not a model."""


def shell_text(command: Sequence[str]) -> tuple[str, Sequence[str]] | None:
    """(the text that a shell with `-c` runs, its `$0`, `$1` and so on); None for another command."""
    if len(command) < 3 or recognise.base(command[0]) not in SHELLS or not re.fullmatch(r"-[a-z]*c", command[1]):
        return None
    return command[2], command[3:]


def commands_in(command: Sequence[str]) -> list[Sequence[str]]:
    """The simple commands that a command runs: those of the text of a shell, or itself."""
    of_shell = shell_text(command)
    return [one.words for one in words.read(of_shell[0]).commands] if of_shell else [command]


def started(command: Sequence[str]) -> list[str]:
    """What a command starts in the end: the words behind init processes and `exec`."""
    rest = list(command)
    while rest and (rest[0] == "exec" or recognise.base(rest[0]) in INITS):
        rest = rest[rest.index("--") + 1 if "--" in rest and rest[0] != "exec" else 1 :]
    return rest


def program_of(run_words: Sequence[str], environment: Mapping[str, str]) -> tuple[Mapping[str, str], list[str]] | None:
    """(further variables, the program) that a command becomes in the end; None if a shell does more than to start it.

    >>> program_of(["/bin/bash", "-c", "exec vllm serve a/b --port $P"], {"P": "80"})
    ({}, ['vllm', 'serve', 'a/b', '--port', '80'])
    >>> program_of(["sh", "-c", 'export KEY="$(cat /k)"; exec "$@"', "sh", "vllm", "serve"], {})
    ({'KEY': '$(cat /k)'}, ['vllm', 'serve'])
    >>> program_of(["sh", "-c", "pip install x && vllm serve a/b"], {}) is None
    True
    """
    command = started(run_words)
    if not (of_shell := shell_text(command)):
        return {}, command
    text, arguments = of_shell
    read = words.read(text, environment, arguments=arguments)
    before, last, variables = in_order(read)
    if not read.plain or read.findings or before or not last or last.undefined:
        return None
    return variables, started(last.words)


def in_order(read: words.Script) -> tuple[list[Sequence[str]], words.Command | None, dict[str, str]]:
    """(commands with an effect on the last one, also values that only they know; the last one; its variables)."""
    before, last = read.commands[:-1], next(reversed(read.commands), None)
    variables = {**read.exported, **(last.environment if last else {})}
    unknown = [[f"{name}={value}"] for name, value in variables.items()
               if re.search(r"[$`]", secret.READS.sub("", value))]  # fmt: skip
    return [*(one.words for one in before if one.words[0] not in HARMLESS), *unknown], last, variables


def read_arguments(t: Translation) -> flags_of.Flags | None:
    """The engine's flags; None if the command is not the engine's own and must be kept unchanged."""
    if t.unknown:
        return None
    variables, whole = t.engine.started_by(t.run.argv)
    whole = list(whole)
    if path := script_of(t, whole):
        t.environment |= variables
        return read_script(t, path, whole[whole.index(path) :])
    found = ({}, whole) if tuple(whole) in t.dialect.programs else program_of(whole, t.environment)
    exported, program = found or ({}, [])
    more, command = t.engine.started_by(program)
    arguments = recognise.after_program(t.dialect.programs, command)
    image_starts_it = t.run.entrypoint is None and program == whole
    if arguments is None and image_starts_it and not PROGRAM.fullmatch((command or [""])[0]):
        arguments = whole
    if arguments is None:
        kept(t, whole)
        return None
    t.environment |= {**variables, **exported, **more}
    return parsed(t, arguments)


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
    if not command or {tuple(command), tuple(command[:1])} & {*t.dialect.programs} or shell_text(command):
        return None
    if recognise.base(command[0]) in SHELLS:
        return next((word for word in command[1:] if not word.startswith("-")), None)
    mounted = any(mount.inside(command[0]) is not None for mount in t.run.mounts)
    return command[0] if command[0].endswith(".sh") and (t.run.entrypoint or mounted) else None


def read_script(t: Translation, inside: str, arguments: Sequence[str]) -> flags_of.Flags | None:
    """The engine's flags in a script that the container runs. arguments: its own, from `$0` on.

    None if --file does not give it, or if it does more than to start the engine.
    """
    path, text = t.file(inside)
    if text is None:
        t.note("open", f"runs a script, kept with engine custom. Pass it with --file {path}=SCRIPT to import its "
               "flags.")  # fmt: skip
        return None
    read = words.read(text, {**t.environment, **t.known.variables}, arguments=arguments)
    t.findings += [Finding(found.kind, f"{t.where}, {inside}", found.what) for found in read.findings]
    before, last, variables = in_order(read)
    found = recognise.after_program(t.dialect.programs, started(last.words)) if last else None
    if last is None or found is None:
        t.note("open", f"{inside} contains no {t.engine.name} command at its end. It is kept, with engine custom.")
    elif before:
        shown = secret.masked_command(before[0], 40)
        t.note("open", f"{inside} runs `{shown}` before it starts {t.engine.name}. It is kept, with engine custom.")
    elif flags := parsed(t, without_commands(t, found)):
        t.environment |= variables
        for name in last.undefined:
            if re.fullmatch(r"\$\w+", name) and not is_secret(name):
                t.note("open", f"{name} in {inside} is not defined. Pass --set {name[1:]}=….")
        t.note("changed", f"the flags in {inside} became fields and args; the script is not used.")
        return flags
    return None


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
