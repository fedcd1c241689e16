"""What `gpurack apply` shows while it runs: the lines of hosts and their runners, without pyinfra's own lines."""

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
import pyinfra
from pyinfra.api import output
from pyinfra_cli.log import setup_logging
from typing_extensions import override

from gpurack import screen
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
            output.set_echo(click.echo)
            setup_logging(logging.INFO)
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


class Lines(logging.Handler):
    """Prints `HOST  ENTRY  text`. Errors wait for the end of the run, where each is printed once, with its hint."""

    def __init__(self, console: screen.Console, entries: Mapping[str, Collection[str]]) -> None:
        super().__init__()
        self.console, self.entries = console, entries
        self.quoting: set[str] = set()
        """Hosts whose last line was an error, so that the lines quoted below it wait also."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        if record.funcName in OF_HOSTS:
            self.echo(record.getMessage())

    def echo(self, message: Any = None, **how: Any) -> None:
        """Print one line of pyinfra's, `[gpu1] alpha: ready`."""
        found = re.fullmatch(r"\[([^\]]*)\] (.*)", str(message or ""), re.DOTALL)
        if not found:
            return
        host, text = found.groups()
        if host in self.quoting and text.startswith("    | "):
            return
        self.quoting.discard(host)
        failed = text.startswith("error ")
        if failed:
            self.quoting.add(host)
            text = text.removeprefix("error ")
        entry, colon, rest = text.partition(": ")
        if not (colon and entry in self.entries.get(host, ())):
            entry, rest = "", text
        if failed:
            rest = "failed, the reason follows at the end"
        columns = [part for part in (entry, rest) if part]
        self.console.print(screen.line((host, "bold"), "  ", "  ".join(columns)))
