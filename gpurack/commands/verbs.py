"""What the verbs of `gpurack` share: arguments, and answers to a wrong verb, a deploy file or a wrong inventory."""

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
from typing_extensions import override

from gpurack import screen
from gpurack.shell import sh
from gpurack.spec.problems import InventoryError, NotAsked, Problem, nearest, suggestion

ERRORS = 2
"""The exit code for errors in the inventory or in the arguments."""
INTERRUPTED = 130
"""The exit code after Ctrl-C."""
JSON = "gpurack.json"
"""Key of a context's `meta`: is `--json` among the arguments?"""
ELSEWHERE = {
    "gpurack init": ("new", "setup", "bootstrap"),
    "gpurack apply": ("run", "deploy", "up", "install", "converge", "sync", "provision", "update", "upgrade"),
    "gpurack plan": ("check", "validate", "lint"),
    "gpurack diff": ("dry-run", "preview", "changes"),
    "gpurack status": ("ps", "ls", "list", "show", "top", "get", "describe", "inspect", "info", "nodes", "pods"),
    "gpurack verify": ("test", "audit", "doctor"),
    "gpurack history": ("events", "log", "who"),
    "ssh HOST docker exec -it MODEL bash": ("exec", "shell", "attach", "enter"),
    "gpurack logs": ("tail",),
    "gpurack apply --prepare": ("pull", "fetch", "prepare", "download"),
    "gpurack rollback": ("undo", "revert"),
    "gpurack prune": ("clean", "cleanup", "gc"),
    "gpurack endpoints": ("urls", "url"),
    "gpurack stop": ("kill", "disable"),
    "gpurack init --host gpu2.lab": ("add", "add-host"),
    "gpurack --help": ("help", "man", "docs"),
    "gpurack --version": ("version",),
    "pyinfra INVENTORY deploys/remove.py": ("down", "destroy", "remove", "rm", "delete", "uninstall"),
}
"""Command → words that other tools use for it."""
APPLY_FLAGS: Mapping[str, Mapping[str, Any]] = {
    "renew": {"is_flag": True, "help": "Recreate containers that have settings of an older gpurack."},
    "retry": {"multiple": True, "metavar": "HOST/MODEL", "help": "Try again what failed; HOST/all for all."},
    "take_over": {"is_flag": True, "help": "Take over models of another lab that INVENTORY has."},
    "allow_remove": {
        "type": click.IntRange(1), "metavar": "N", "help": "Remove N models where that empties a host, or most of it.",
    },
    "restart": {
        "flag_value": "always", "default": None,
        "help": "Let Docker restart, also if that stops containers of others.",
    },
    "prepare": {"is_flag": True, "help": "Only fetch images and weights that hosts lack; nothing stops."},
}  # fmt: skip
"""Word of pyinfra's `--data` → the option of `gpurack apply` that sets it."""


class Mistake(click.ClickException):
    """An argument that cannot be meant. It is printed as other errors are, with `--json` as JSON.

    problems: the same for programs. Without any, the lines and the hint are one problem with the code `code`.
    """

    exit_code = 2
    code = "command-line-wrong"

    def __init__(self, lines: Sequence[str], hint: str = "", problems: Sequence[Problem] = ()) -> None:
        super().__init__("\n".join(lines))
        self.lines, self.hint = lines, hint
        self.problems = problems or [Problem.of(self.code, what="\n".join(lines), hint=hint)]
        context = click.get_current_context(silent=True)
        self.as_json = context is not None and context.meta.get(JSON, False)

    @override
    def show(self, file: Any = None) -> None:
        if self.as_json:
            echo_as_json(self.problems)
            return
        for text in self.lines:
            screen.echo(f"error  {text}", err=True)
        if self.hint:
            screen.echo(f"  hint: {self.hint}", err=True)


class Failed(Mistake):
    """An error of another kind than an argument."""

    exit_code = 1
    code = "command-failed"


OPTIONS = {
    "--dry": ("--dry-run", "--dryrun", "--check", "--noop", "--what-if", "--simulate", "--preview", "-n"),
    "--yes": ("--force", "--auto-approve", "--assume-yes", "--no-confirm", "--noconfirm"),
    "--limit": ("-l", "-H", "--host", "--hosts", "--only", "--target"),
    "--lines": ("--tail",),
    "--watch": ("-w", "--follow"),
    "--json": ("-o", "--output", "--format"),
}
"""Option → what other tools call it."""
FILES = ("-i", "-f", "--inventory", "--file", "-c", "--config")
"""Options of other tools for the inventory."""
LOGIN = {
    "set `ssh_user` of the host in the inventory": ("-u", "--user", "--ssh-user", "--remote-user"),
    "set `ssh_port` of the host in the inventory": ("-p", "--port", "--ssh-port"),
    "set `ssh_key` of the host in the inventory": ("--private-key", "--key-file", "--key", "--ssh-key", "--identity"),
    "gpurack uses sudo where it needs it, and asks for the password": (
        "-b", "-K", "--become", "--ask-become-pass", "--sudo", "--use-sudo-password",
    ),
}  # fmt: skip
"""What to do → options of Ansible and pyinfra for it."""
OF_PYINFRA = ("--data", "--serial", "--parallel", "--no-wait", "--exclude", "--debug", "--diff")
"""Options that only the command pyinfra has."""
CHANGE_NOTHING = {"plan": "", "diff": "", "status": "", "endpoints": "", "verify": "", "prune": " without `--yes`"}
"""Verb that is the same as with `--dry` → but for what."""
EXAMPLES = {"HOST": "gpu1.lab", "HOST/MODEL": "gpu1.lab/bge-m3", "N": "2", "FILE": "lab.html", "REASON": '"new fans"'}
"""Metavar of an option → an example."""


@contextmanager
def as_mistakes(ctx: click.Context, args: Sequence[str] = ()) -> Iterator[None]:
    """Print errors of click as gpurack's own, with an example of what to type. args: the arguments that were given."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:  # prints the help
        raise
    except click.UsageError as error:
        message = re.sub(r"'([^']+)'", r"`\1`", error.format_message().partition(" Choose from:")[0])
        text = message[:1].lower() + message[1:].rstrip(".")
        text = text.replace("is not a valid integer range", "is not a whole number")
        text = re.sub(r"is not in the range x>=(\d+)", r"is less than \1", text)
        if extra := re.fullmatch(r"got unexpected extra arguments? \((\S+).*\)", text):
            text, example = surplus(extra[1], ctx, [word for word in args if _is_file(word)])
        else:
            text, example = what_is_meant(error, text, ctx)
        if text.endswith("?"):
            raise Mistake([text]) from None
        more = "" if ctx.parent is None else f", or see `{ctx.command_path} --help`"
        raise Mistake([f"{text}."], f"{example}{more}.") from None
    except Mistake:
        raise
    except click.ClickException as error:  # click would print `Error: `
        raise Failed([error.format_message()]) from None


def surplus(word: str, ctx: click.Context, files: Sequence[str]) -> tuple[str, str]:
    """What is wrong with an argument too many, and what to type. files: the inventories that were given."""
    from gpurack.inventory.find import DASHES

    if DASHES.match(word):
        return f"`{word}` begins with a dash of a word processor", f"write `{DASHES.sub('--', word)}`"
    if _is_file(word) and inventory_in(ctx.command):
        return f"one inventory at a time: `{word}` is a second one", f"`{ctx.command_path} {word}`"
    if any("--limit" in parameter.opts for parameter in ctx.command.params):
        command = " ".join([ctx.command_path, *files[:1], "--limit", word])
        return f"unexpected argument `{word}`", f"if it is a host: `{command}`"
    return f"unexpected argument `{word}`", first_example(ctx)


def what_is_meant(error: click.UsageError, text: str, ctx: click.Context) -> tuple[str, str]:
    """What is wrong with a known error of click, and what to type."""
    if isinstance(error, click.NoSuchOption):
        return unknown_option(error.option_name, ctx)
    if needed := re.match(r"(--\S+) requires (--[\w-]+)", text):
        return text, f"`{ctx.command_path} {needed[2]} {needed[1]}`"
    given, name = getattr(error, "param", None), getattr(error, "option_name", None)
    for option in ctx.command.params:
        if isinstance(option, click.Option) and (option is given or name in option.opts):
            return text, f"`{command_with(option, ctx)}`"
    return text, first_example(ctx)


def unknown_option(name: str, ctx: click.Context) -> tuple[str, str]:
    """What is wrong with an option that a verb does not have, and what to type."""
    text, known = f"no such option `{name}`", options_of(ctx.command)
    if ctx.parent is None:
        if name == "-V":
            return f"{text}. Did you mean `--version`?", ""
        return text, f"options follow the command, as in `gpurack apply {name}`"
    meant = next((mine for mine, words in OPTIONS.items() if name in words and mine in known), None)
    if guess := meant or nearest(name, known, cutoff=0.7):
        return f"{text}. Did you mean `{guess}`?", ""
    if inventory_in(ctx.command) and (hint := next((each for each, words in LOGIN.items() if name in words), "")):
        return text, hint
    if name in OF_PYINFRA and ctx.info_name == "apply":
        return text, f"it is an option of pyinfra: `pyinfra INVENTORY deploys/gpu_host.py {name} …`"
    if name in ("--dry", *OPTIONS["--dry"]) and ctx.info_name in CHANGE_NOTHING:
        return text, f"`{ctx.command_path}` changes nothing{CHANGE_NOTHING[ctx.info_name]}"
    if name in ("--limit", *OPTIONS["--limit"]) and any(
        "HOST" in each.make_metavar(ctx) for each in ctx.command.params[:1]
    ):
        example = first_example(ctx)
        return text, f"the host is an argument: {example if 'gpu1' in example else f'`{ctx.command_path} gpu1.lab`'}"
    if name in FILES and inventory_in(ctx.command):
        return text, f"the inventory is an argument: `{ctx.command_path} lab.yaml`"
    if found := verb_with(name, ctx):
        verb, command = found
        example = command_with(next(option for option in command.params if name in option.opts), ctx, verb, command)
        return f"`{ctx.command_path}` has no option `{name}`; `{verb}` has it", f"`{example}`"
    return text, first_example(ctx)


def command_with(
    option: click.Parameter, ctx: click.Context, path: str = "", command: click.Command | None = None
) -> str:
    """The command to type with an option, and with the HOST/MODEL that it needs. path, command: of another verb."""
    path, command = path or ctx.command_path, command or ctx.command
    place = (
        " gpu1.lab/bge-m3" if any(each.make_metavar(ctx).endswith("HOST/MODEL") for each in command.params[:1]) else ""
    )
    flag = isinstance(option, click.Option) and (option.is_flag or option.is_bool_flag)
    metavar = option.metavar or ("N" if isinstance(option.type, click.IntRange) else "")
    return f"{path}{place} {option.opts[0]}" + ("" if flag else f" {EXAMPLES.get(metavar, metavar)}")


def options_of(command: click.Command) -> list[str]:
    """The options of a command."""
    return [option for parameter in command.params for option in parameter.opts if option.startswith("-")]


def inventory_in(command: click.Command) -> bool:
    """Does it take an inventory?"""
    return any(each.name in ("inventory", "words") for each in command.params)


def verb_with(option: str, ctx: click.Context) -> tuple[str, click.Command] | None:
    """The first verb that has an option; diff first, because it changes nothing. None for formats, and for no verb."""
    root = ctx.find_root()
    group = root.command
    if not isinstance(group, click.Group) or option == "--json":
        return None
    for verb in ("diff", "apply", *group.list_commands(root)):
        command = group.get_command(root, verb)
        if command and option in options_of(command):
            return f"gpurack {verb}", command
    return None


def first_example(ctx: click.Context) -> str:
    """The first example of the verb's help, with the inventory that the folder has."""
    from gpurack.inventory.find import INVENTED, example, inventories

    shown = re.search(r"Example:\n\s+(.+?)(?:\s{2,}|\n|$)", ctx.command.help or "")
    if not shown:
        return f"`{ctx.command_path}`"
    return f"`{shown[1].strip().replace(str(INVENTED), sh('{}', str(example(inventories()))))}`"


class Verb(click.Command):
    """A verb that recognises a deploy file among its arguments, as the command pyinfra takes one."""

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        from gpurack.inventory.find import deploy_given, is_deploy

        if self.name == "import" and args[:1] in (["docker"], ["podman"], ["sudo"]):
            raise Mistake(
                ["a command cannot be an argument: its options would be those of gpurack."],
                "run `gpurack import`, paste the command and press Ctrl-D, or save it: `gpurack import start.sh`.",
            )
        for word in args if inventory_in(self) else ():
            if not word.startswith("-") and is_deploy(Path(word)):
                error = deploy_given(Path(word), [other for other in args if other != word], ctx.command_path)
                raise Mistake(error.lines, problems=error.problems)
        with as_mistakes(ctx, tuple(args)):
            return super().parse_args(ctx, args)

    @override
    def invoke(self, ctx: click.Context) -> Any:
        with as_mistakes(ctx):
            return super().invoke(ctx)


class Verbs(click.Group):
    """The verbs. An unknown one is answered with the one that is meant."""

    command_class = Verb

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta.setdefault(JSON, "--json" in args)
        with as_mistakes(ctx):
            return super().parse_args(ctx, args)

    @override
    def main(self, *args: Any, **options: Any) -> Any:
        try:
            return super().main(*args, **options)
        except OSError as error:
            if error.errno != errno.ENOSPC or error.filename:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python writes the rest when it ends
            screen.echo("error  a file or the output could not be written: no space left on this computer.", err=True)
            sys.exit(Failed.exit_code)

    @override
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):  # click would print `Aborted!` and exit with 1
            screen.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)

    @override
    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        word = args[0]
        if self.get_command(ctx, word) is None and not word.startswith("-"):
            if _is_file(word):
                raise Mistake([f"the command is missing. Write `{ctx.command_path} plan {sh('{}', word)}`."])
            meant = next((command for command, words in ELSEWHERE.items() if word.lower() in words), "")
            raise Mistake([f"no command `{word}`. {self.instead(ctx, args, meant)}"])
        return super().resolve_command(ctx, args)

    def instead(self, ctx: click.Context, args: Sequence[str], meant: str) -> str:
        """The sentence with the command to type. meant: that of `ELSEWHERE`, "" for a misspelt verb."""
        files = sh("{files}", files=[word for word in args[1:] if _is_file(word)])
        if meant:
            command = meant.replace("INVENTORY", files or "INVENTORY")
            ours = command == meant and command.startswith("gpurack ")
            return f"Use `{command} {files}`." if files and ours else f"Use `{command}`."
        guess = nearest(args[0].lower(), self.list_commands(ctx))
        return f"Did you mean `{ctx.command_path} {guess}`?" if guess else suggestion(args[0], self.list_commands(ctx))


def named_inventory(context: click.Context, given: str | None = None) -> Path:
    """The inventory that an argument names; without one, the folder's only one. Raises Mistake."""
    from gpurack.inventory.find import chosen

    limits = any("--limit" in parameter.opts for parameter in context.command.params)
    try:
        return chosen(given, context.command_path, limits)
    except InventoryError as error:
        raise Mistake(error.lines, problems=error.problems) from None


def _named(context: click.Context, parameter: click.Parameter, given: str | None) -> Path:
    return named_inventory(context, given)


inventory_argument = click.argument("inventory", type=click.Path(), required=False, callback=_named)
"""INVENTORY, as a path. It can be left out where the folder has one."""


def _place(context: click.Context, parameter: click.Parameter, words: tuple[str, ...]) -> tuple[Path, str]:
    if not words or (len(words) == 1 and _is_file(words[0])):
        raise click.UsageError("Missing argument 'HOST/MODEL'.", context)
    first = words[:1] if _is_file(words[0]) else ()
    rest = words[len(first) :]
    place = _model_of(rest[0], first) if len(rest) > 1 else ""
    if place and _model_of(rest[1], first):
        command = " ".join([context.command_path, *first, place])
        raise Mistake([f"one model at a time: `{command}`."])
    if len(rest) == 2 and not place and not any("/" in word for word in rest):
        command = " ".join([context.command_path, *first, "/".join(rest)])
        raise Mistake([f"write HOST/MODEL as one word: `{command}`."])
    if len(rest) > 1 and not (len(rest) == 2 and Path(rest[0]).exists()):
        raise unexpected(rest[1], context)
    return named_inventory(context, *words[:-1]), words[-1]


def _model_of(word: str, inventory: Sequence[str]) -> str:
    """HOST/MODEL for a model that is named with or without its host; "" for anything else."""
    from gpurack.inventory.find import hosts_of_model, inventories

    for path in map(Path, inventory) if inventory else inventories():
        if hosts := hosts_of_model(word, path):
            return f"{hosts[0]}/{word.rpartition('/')[2]}"
    return ""


def _host(context: click.Context, parameter: click.Parameter, words: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    files = [word for word in words if _is_file(word)]
    hosts = tuple(word for word in words if word not in files)
    if len(files) > 1 or len(hosts) > 1:
        raise unexpected(words[-1], context)
    return named_inventory(context, *files), hosts


def _parts(context: click.Context, parameter: click.Parameter, words: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    first = words[:1] if words and _is_file(words[0]) else ()
    return named_inventory(context, *first), words[len(first) :]


def _one_host(context: click.Context, parameter: click.Parameter, words: tuple[str, ...]) -> tuple[Path, str]:
    if all(_is_file(word) for word in words):
        raise click.UsageError("Missing argument 'HOST'.", context)
    inventory, hosts = _host(context, parameter, words)
    return inventory, hosts[0]


def _image(context: click.Context, parameter: click.Parameter, words: tuple[str, ...]) -> tuple[Path, str, str, str]:
    first = words[:1] if words and _is_file(words[0]) else ()
    match words[len(first) :]:
        case (host, name, file):
            return named_inventory(context, *first), host, name, file
        case (_, _, _, extra, *_):
            raise unexpected(extra, context)
        case rest:
            raise click.UsageError(f"Missing argument '{('HOST', 'NAME', 'FILE')[len(rest)]}'.", context)


def unexpected(word: str, context: click.Context) -> click.UsageError:
    """The error for an argument too many."""
    return click.UsageError(f"Got unexpected extra argument ({word})", context)


def _is_file(word: str) -> bool:
    from gpurack.inventory.load import YAML

    return Path(word).suffix in (".py", *YAML)


def _words(metavar: str, callback: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("words", nargs=-1, metavar=metavar, type=click.Path(), callback=callback)


place_argument = _words("[INVENTORY] HOST/MODEL", _place)
"""INVENTORY as a path, which can be left out where the folder has one, and HOST/MODEL."""
host_argument = _words("[INVENTORY] [HOST]", _host)
"""INVENTORY as a path, which can be left out where the folder has one, and the host that is meant, if only one is."""
one_host_argument = _words("[INVENTORY] HOST", _one_host)
"""INVENTORY as a path, which can be left out where the folder has one, and HOST."""
image_argument = _words("[INVENTORY] HOST NAME FILE", _image)
"""INVENTORY as a path, which can be left out where the folder has one, and HOST, NAME and FILE."""
parts_argument = _words("[INVENTORY] [WHAT]...", _parts)
"""INVENTORY as a path, which can be left out where the folder has one, and further words."""
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
limit_option = click.option(
    "--limit", metavar="HOST", multiple=True, help="Only these hosts, groups or patterns; repeatable."
)
fail_on_change = click.option("--fail-on-change", is_flag=True, help="Exit with 3 if something would change.")


def apply_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `APPLY_FLAGS`."""
    for word, settings in reversed(list(APPLY_FLAGS.items())):
        function = click.option(f"--{word.replace('_', '-')}", word, **settings)(function)
    return function


def require_one_format(**options: object) -> None:
    """Refuse more than one of the options that each choose what is printed. Raises click.UsageError."""
    if len(used := [name for name, value in options.items() if value]) > 1:
        raise click.UsageError(f"{' and '.join(used)} cannot be combined. Use one.")


def fail(console: screen.Console, error: InventoryError, as_json: bool) -> NoReturn:
    """Print all errors and exit with 2."""
    if as_json:
        echo_as_json(error.problems)
    else:
        show_errors(console, error)
    sys.exit(ERRORS)


def echo_as_json(problems: Sequence[Problem]) -> None:
    """Print errors before any host is asked, for programs."""
    errors = [problem.as_data() for problem in problems]
    screen.echo(screen.as_json({"schema": screen.SCHEMA, "hosts": {}, "errors": errors, "warnings": []}))


def show_errors(console: screen.Console, error: InventoryError) -> None:
    """Print all errors of an inventory."""
    for line in error_lines(error):
        console.print(line, soft_wrap=True)


def error_lines(error: InventoryError) -> Iterator[screen.Text]:
    """Yield all errors of an inventory, then their number."""
    for line in error.lines:
        yield screen.line(("error", "red"), f"  {line}")
    count = len(error.lines)
    if not isinstance(error, NotAsked):
        yield screen.line(
            "1 error. Fix it before applying." if count == 1 else f"{count} errors. Fix them before applying."
        )
