"""A pytest plugin that runs the collected tests in several processes: `python -m pytest -p tests.lanes`.

Tests are imported and collected once. Then each lane is a fork of this process. It takes one file of tests after the
other, so fixtures of modules are made once, and sends what it reports to this process, which prints it. (pytest-xdist
would import and collect in each of its processes.)
"""

import os
import signal
import struct
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

import pytest

LANES = 3 * (os.cpu_count() or 1)
"""More than cores, because tests of limits wait: of the files' seconds together, the processors compute in 45 %."""
SECONDS = "lanes/seconds"
"""Where pytest's cache has how long each file took."""


class Lane:
    """One process's end: a plugin that sends every report. Takes the place of the terminal's reporter."""

    def __init__(
        self, session: pytest.Session, queue: int, files: list[list[pytest.Item]], reports: Connection
    ) -> None:
        self.session, self.queue, self.files, self.reports = session, queue, files, reports
        self.seconds: Counter[str] = Counter()
        self.waiting: list[Any] = []
        self.ended: Any = None  # the last test with its reports, which go with the next message

    def run(self) -> None:
        plugins = self.session.config.pluginmanager
        plugins.unregister(name="terminalreporter")
        plugins.register(self)
        capture = plugins.getplugin("capturemanager")
        capture.stop_global_capturing()  # all lanes have the same temporary files
        capture.start_global_capturing()
        capture.suspend_global_capture()
        tests = self._tests()
        test = next(tests, None)
        while test:
            following = next(tests, None)
            test.config.hook.pytest_runtest_protocol(item=test, nextitem=following)
            test = following
        self._send("done", self.seconds)

    def _send(self, kind: str, data: Any) -> None:
        """Send this, and with it how the test before ended: each message costs two processes a turn."""
        self.reports.send((kind, data, self.ended))
        self.ended = None

    def _tests(self) -> Iterator[pytest.Item]:
        """The tests of the next files. Each file has a folder of its own, because tmp_path lists all that is in it."""
        factory = self.session.config._tmp_path_factory  # type: ignore[attr-defined]
        base = factory.getbasetemp()
        while packed := os.read(self.queue, 2):
            (number,) = struct.unpack("H", packed)
            factory._basetemp = base / str(number)
            factory._basetemp.mkdir(mode=0o700)
            yield from self.files[number]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._send("begun", nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.location[0]] += report.duration
        if report.when == "call" or not report.passed:  # nobody reads the others, which would cost seconds
            config = self.session.config
            self.waiting.append(config.hook.pytest_report_to_serializable(config=config, report=report))

    def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:
        self.ended = (nodeid, location, self.waiting)
        self.waiting = []

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, when: str, nodeid: str) -> None:
        said = f"{warning_message.category.__name__}: {warning_message.message}"
        place = (warning_message.filename, warning_message.lineno)
        self._send("warning", {"said": said, "place": place, "when": when, "nodeid": nodeid})


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run all tests in lanes. pytest itself reports errors of the collection."""
    if session.testsfailed or session.config.option.collectonly:
        return None
    known = session.config.cache.get(SECONDS, {})
    files = [list(tests) for _, tests in groupby(session.items, key=lambda item: item.location[0])]
    # The longest come first, so that the lanes end together.
    files.sort(key=lambda tests: known.get(tests[0].location[0], len(tests)), reverse=True)
    session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # one folder for all lanes
    queue, numbers = os.pipe()
    os.write(numbers, b"".join(struct.pack("H", number) for number in range(len(files))))
    os.close(numbers)
    lanes: dict[Connection, int] = {}
    try:
        for _ in range(LANES):
            reports, end = Pipe(duplex=False)
            process = os.fork()
            if process == 0:
                code = 1
                try:
                    Lane(session, queue, files, end).run()
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            end.close()
            lanes[reports] = process
        os.close(queue)
        seconds = _replay(session, dict(lanes))
        session.config.cache.set(SECONDS, {**known, **seconds})
    finally:
        for process in lanes.values():
            os.kill(process, signal.SIGTERM)
            os.waitpid(process, 0)
    return True


def _replay(session: pytest.Session, lanes: dict[Connection, int]) -> Counter[str]:
    """Give the reports of all lanes to pytest's plugins here; returns the seconds of each file. Raises Interrupted if
    a lane ends before its tests do."""
    hook, begun = session.config.hook, dict.fromkeys(lanes, "")
    seconds: Counter[str] = Counter()
    while lanes:
        for lane in wait(list(lanes)):
            assert isinstance(lane, Connection)
            try:
                kind, data, ended = lane.recv()
            except EOFError:
                raise session.Interrupted(f"the process of {begun[lane]} ended") from None
            if ended:
                nodeid, location, reports = ended
                for each in reports:
                    report = hook.pytest_report_from_serializable(config=session.config, data=each)
                    hook.pytest_runtest_logreport(report=report)
                hook.pytest_runtest_logfinish(nodeid=nodeid, location=location)
            if kind == "begun":
                begun[lane] = data
            elif kind == "warning":
                message = warnings.WarningMessage(data["said"], pytest.PytestWarning, *data["place"])
                where = {"when": data["when"], "nodeid": data["nodeid"], "location": None}
                hook.pytest_warning_recorded.call_historic(kwargs={"warning_message": message, **where})
            else:
                seconds.update(data)
                del lanes[lane]
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
    return seconds
