"""What `gpurack apply` shows while it runs: the lines of hosts and their runners, without pyinfra's own lines."""

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
import pyinfra
from pyinfra.api import output
from pyinfra_cli.log import setup_logging
from typing_extensions import override

from gpurack import screen
from gpurack.operations.output import Says, parse
from gpurack.pyinfra_patches import harmless

OF_HOSTS = ("log", "log_host_command_error")
"""The functions of pyinfra (3.10.0) that log what an operation says of a host, and a lost connection."""


@contextmanager
def progress(console: screen.Console, entries: Mapping[str, Collection[str]], verbose: bool) -> Iterator[None]:
    """Print what pyinfra's operations say to the console; verbose: as the command `pyinfra -v` does.

    entries: host → names of its models, services and jobs.
    """
    logger, cli = logging.getLogger("pyinfra"), pyinfra.is_cli
    before = (logger.handlers[:], logger.level, logger.propagate)
    pyinfra.is_cli = True  # operations are ordered as by the command
    try:
        if verbose:
            harmless()
            errors = Errors()
            output.set_echo(errors.kept_from(click.echo))
            setup_logging(logging.INFO)
            logger.handlers[-1].addFilter(errors.without)
        else:
            lines = Lines(console, entries)
            logger.handlers, logger.propagate = [lines], False
            logger.setLevel(logging.INFO)
            output.set_formatter(lambda text, *style, **more: text)
            output.set_echo(lines.echo)
        yield
    finally:
        pyinfra.is_cli = cli
        logger.handlers, logger.propagate = before[0], before[2]
        logger.setLevel(before[1])
        output.set_echo(output._default_echo)
        output.set_formatter(output._default_format_text)


def keep_log_quiet() -> None:
    """Without any handler, Python would print pyinfra's warnings and errors as they are."""
    logging.getLogger("pyinfra").addHandler(logging.NullHandler())


FAILED_LATER = "failed, the reason follows at the end"


class Errors:
    """Keeps errors of hosts for the end of the run, where each is printed once, with its hint."""

    def __init__(self) -> None:
        self.quoting: set[str] = set()
        """Hosts whose last line was an error, so that the lines quoted below it wait also."""

    def now(self, message: str) -> str | None:
        """Return what is printed of a line `[gpu1] alpha: ready` when it comes; None for nothing.

        >>> errors = Errors()
        >>> [errors.now(line) for line in ("[gpu1] error a: out of memory", "[gpu1]     | CUDA", "[gpu1] b: ready")]
        ['[gpu1] a: failed, the reason follows at the end', None, '[gpu1] b: ready']
        """
        found = re.fullmatch(r"\[([^\]]*)\] (.*)", click.unstyle(message), re.DOTALL)
        if not found:
            return message
        host, text = found.groups()
        line = parse(text)
        if host in self.quoting and line.says is Says.MORE:
            return None
        self.quoting.discard(host)
        if line.says is not Says.ERROR:
            return message
        self.quoting.add(host)
        entry, colon, _ = line.text.partition(": ")
        who = f"{entry}: " if colon and " " not in entry else ""
        return f"[{host}] {who}{FAILED_LATER}"

    def kept_from(self, write: Callable[..., None]) -> Callable[..., None]:
        """What pyinfra calls to print a line. write: how it is printed."""

        def filtered(message: Any = None, **how: Any) -> None:
            text = None if message is None else self.now(str(message))
            if message is None or text is not None:
                write(text, **how)

        return filtered

    def without(self, record: logging.LogRecord) -> bool:
        """A filter of pyinfra's log."""
        text = self.now(record.getMessage())
        if text is not None:
            record.msg, record.args = text, ()
        return text is not None


class Lines(logging.Handler):
    """Prints `HOST  ENTRY  text`, and errors as `Errors` says."""

    def __init__(self, console: screen.Console, entries: Mapping[str, Collection[str]]) -> None:
        super().__init__()
        self.console, self.entries = console, entries
        self.errors = Errors()

    @override
    def emit(self, record: logging.LogRecord) -> None:
        if record.funcName in OF_HOSTS:
            self.echo(record.getMessage())

    def echo(self, message: Any = None, **how: Any) -> None:
        """Print one line of pyinfra's, `[gpu1] alpha: ready`."""
        found = re.fullmatch(r"\[([^\]]*)\] (.*)", self.errors.now(str(message or "")) or "", re.DOTALL)
        if not found:
            return
        host, text = found.groups()
        if parse(text).says in (Says.PHASES, Says.CODES):  # they are shown at the end
            return
        entry, colon, rest = text.partition(": ")
        if not (colon and entry in self.entries.get(host, ())):
            entry, rest = "", FAILED_LATER if text.endswith(f": {FAILED_LATER}") else text
        columns = [part for part in (entry, rest) if part]
        self.console.print(screen.line((host, "bold"), "  ", "  ".join(columns)))
