"""What `gpurack verify` prints: a line for each host and model, then what failed. A plugin of pytest, given by `-p`.

With -v pytest's own reporter prints instead. Unreachable hosts have an exit code of their own.
"""

import time
import warnings
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from gpurack import screen
from gpurack.commands.diff import counted
from gpurack.commands.verify import AWAY, QUIET
from gpurack.verify.arguments import MODEL
from gpurack.verify.drift import one_line
from gpurack.verify.plugin import lab_of, parameters, server_of

NONE = "-"
"""In place of a model for a check of the host, and of a host for a check that is about none."""
Place = tuple[str, str]
"""(host, model)."""
FIX = "    fix: "


@dataclass
class Row:
    """What became of the checks of one host or model. failed: check → its message. skipped: left out, or not run."""

    passed: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """The number of checks that ran."""
        return self.passed + len(self.failed)

    @property
    def state(self) -> str:
        """`ok, 26 checks` · `ok, 20 checks, 6 not run` · `FAILED: packages, holds` · `not checked`."""
        if self.failed:
            return f"FAILED: {', '.join(self.failed)}"
        if not self.passed:
            return "not checked"
        return f"ok, {counted(self.passed, 'check')}{f', {self.skipped} not run' if self.skipped else ''}"


Rows = Mapping[Place, Row]


@dataclass
class Results:
    """Gathers what pytest reports. quiet: print the table."""

    quiet: bool
    begun: float = field(default_factory=time.monotonic)
    rows: dict[Place, Row] = field(default_factory=dict)
    warned: dict[str, None] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Have pytest's reporter print nothing for a check."""
        return (report.outcome, "", "") if self.quiet else None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note what became of a check."""
        report = yield
        server, entry = server_of(item), parameters(item).get(MODEL)
        row = self.rows.setdefault((server.name if server else NONE, entry.name if entry else NONE), Row())
        if report.failed:
            name = getattr(item, "originalname", None) or item.name
            row.failed[name.removeprefix("test_")] = report.longreprtext
        elif report.skipped:
            row.skipped += 1
        elif report.when == "call":
            row.passed += 1
        return report

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file of checks that cannot be read."""
        if report.failed:
            self.broken.append(report.longreprtext)

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        """Note what a check warns of."""
        if warning_message.category is UserWarning:
            self.warned[str(warning_message.message)] = None

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Print everything, and set the exit code for hosts that are away."""
        lab = lab_of(session.config)
        resting = {name: each.spec.maintenance or "" for name, each in lab.servers.items()} if lab else {}
        away = {name: why for name in resting if lab and (why := lab.away(name))}
        failed = [(host, text) for (host, _), row in self.rows.items() for text in row.failed.values()]
        if self.quiet and not session.config.getoption("collectonly"):
            console = screen.console(soft_wrap=True)
            nothing = ["no check was selected."] if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED else []
            if self.rows:
                show(console, self.rows, away, resting)
            lines = [screen.line(("error", "red"), f"  {text}") for text in (*self.broken, *nothing)]
            lines += [screen.line(("warning", "yellow"), f"  {one_line(text)}") for text in self.warned]
            if self.rows:
                lines.append(screen.line(summary(self.rows, away, time.monotonic() - self.begun)))
            for number, line in enumerate(lines, 1):
                console.print(line, end="" if number == len(lines) else "\n")  # pytest itself ends the last line
        if self.broken:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR  # pytest itself says that it was interrupted
        elif failed and all(host in away and away[host] in text for host, text in failed):
            session.exitstatus = AWAY


def pytest_configure(config: pytest.Config) -> None:
    """Begin."""
    config.pluginmanager.register(Results(quiet=config.get_verbosity() <= -len(QUIET)))


def show(console: screen.Console, rows: Rows, away: Collection[str], resting: Mapping[str, str]) -> None:
    """Print the table, and the failures below it. resting: host → why it is in maintenance, "" if it is not."""
    table = screen.table("HOST", "MODEL", "STATE")
    for host in dict.fromkeys(host for host, _ in rows):
        if host in away:
            table.add_row(host, NONE, screen.line(("UNREACHABLE", "red")))
        elif resting.get(host):
            table.add_row(host, NONE, screen.line((f"maintenance: {resting[host]}", "yellow")))
        else:
            for (where, model), row in rows.items():
                if where == host:
                    style = "red" if row.failed else "green" if row.passed else "yellow"
                    table.add_row(host, model, screen.line((row.state, style)))
    console.print(table)
    for place, row in rows.items():
        title = " ".join(part for part in place if part != NONE)
        for text in row.failed.values():
            show_failure(console, title, text.split("\n"))


def show_failure(console: screen.Console, title: str, lines: Sequence[str]) -> None:
    """Print the message of a check that failed: each difference, and the command that fixes it."""
    for number, text in enumerate(lines):
        if text.startswith(FIX):
            console.print(screen.line(f"  fix: {text.removeprefix(FIX)}"))
        elif number == 0 or text.startswith(f"{title}: "):
            console.print(screen.line(("error", "red"), f"  {text}"))
        else:  # of a check of the admin's own
            console.print(screen.line(f"       {text}"))


def summary(rows: Rows, away: Collection[str], seconds: float) -> str:
    """The closing line.

    >>> rows = {("gpu1", "-"): Row(26), ("gpu1", "bge-m3"): Row(11, 0, {"ready": "…"}), ("gpu2", "-"): Row(0, 26)}
    >>> summary(rows, {"gpu2"}, 1.94)
    '2 hosts, 1 model: 1 of 38 checks failed, 1 host unreachable. 1.9 s'
    """
    hosts = counted(len({host for host, _ in rows} - {NONE}), "host")
    models = counted(sum(model != NONE for _, model in rows), "model")
    reached = [row for (host, _), row in rows.items() if host not in away]
    total, failed = sum(row.total for row in reached), sum(len(row.failed) for row in reached)
    done = [f"{failed} of {counted(total, 'check')} failed" if failed else f"{counted(total, 'check')} passed"]
    parts = [*(done if total else []), *([f"{counted(len(away), 'host')} unreachable"] if away else [])]
    return f"{hosts}, {models}: {', '.join(parts) or 'nothing was checked'}. {screen.duration(seconds)}"
