"""Start programs: each has a limit, says what is waited for, and ends with the runner.

Runs on the host's own python3 (3.6 or newer, standard library only)."""

import collections
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import threading
import time

import umask_and_path  # noqa: F401 (beside this file)
from messages import Failure, TimeIsUp, code_of, describe_error, rounded, while_heard
from progress import SHOWN, Progress

LARGEST = 16 * 2**20  # bytes of output that are kept of a program
LIBC = ctypes.CDLL(None)  # before any thread forks
LIMIT = 600  # seconds that a program may take if its caller names no limit


def together(calls):
    """Call functions, each in a thread: (function, arguments…). Returns the errors that they ended with."""
    errors = []

    def guarded(function, *arguments):
        try:
            function(*arguments)
        except Exception as error:  # an exception in a thread would be lost
            errors.append(error if isinstance(error, Failure) else Failure(describe_error(error), code_of(error)))

    threads = [threading.Thread(target=guarded, args=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def raise_first(errors):
    """Raise the first error of threads, after all of them."""
    for error in errors:
        raise error


def die_with_parent():
    """In a child, before its program starts: it is killed when the thread that started it ends.

    So it also ends by kill -9 of this program. What it worked on is then the next run's.
    """
    LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Child:
    """A running program, which dies with this one. Its standard error is part of its output.

    limit: seconds that it may take altogether. silence: seconds without output, None for no limit of its own. Every
    program has a limit: it may hang, print without end, or leave a child that keeps its output open. So it gets its own
    session, which is killed as a whole. what: the program, for messages. text, source: its standard input, as text or
    as a file. apart: its standard error is not part of its output; after that, `errors` has as much of it as a pipe
    holds. resumed: does it end when the connection is lost?

    While it prints nothing for some seconds, a message says what is waited for."""

    def __init__(
        self,
        argv,
        limit=LIMIT,
        silence=None,
        environment=None,
        text=None,
        what="",
        source=None,
        apart=False,
        resumed=False,
    ):
        self.limit, self.silence, self.code, self.errors = limit, silence or limit, None, ""
        self.resumed = resumed
        self.what, self.progress = what or " ".join(argv[:2]), Progress("")
        try:
            self.process = subprocess.Popen(
                argv,
                stdin=(source or subprocess.DEVNULL) if text is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if apart else subprocess.STDOUT if text is None else subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        except FileNotFoundError:
            raise Failure("{} is not installed on this host".format(argv[0]), "program-missing") from None
        if text is not None:  # short, so it fits into the pipe even when nothing reads it
            with contextlib.suppress(BrokenPipeError), self.process.stdin as stream:
                stream.write(text.encode("utf-8"))

    def output(self):
        """Yield its output piece by piece; afterwards `code` is set. Raises TimeIsUp."""
        begun = heard = time.monotonic()
        pipe = self.process.stdout.fileno()
        try:
            ended = False
            while True:
                if select.select([pipe], [], [], 0 if ended else 0.5)[0]:
                    piece = os.read(pipe, 65536)
                    if not piece:
                        break
                    heard = self.progress.last = time.monotonic()
                    yield piece
                elif ended:  # a child of it keeps the output open
                    break
                else:
                    ended = self.process.poll() is not None  # what it printed until then is read once more
                self.check(begun, heard)
            while self.process.poll() is None:  # it closed its output and still runs
                self.check(begun, heard)
                select.select([], [], [], 0.005)
            self.code = self.process.returncode
        finally:
            self.end()

    def check(self, begun, heard):
        now = time.monotonic()
        if now - begun > self.limit:
            raise TimeIsUp("{} gave no answer within {}".format(self.what, rounded(self.limit)))
        if now - heard > self.silence:
            raise TimeIsUp("{} printed nothing for {}".format(self.what, rounded(self.silence)))
        if not getattr(SHOWN, "text", ""):
            self.progress.tell("waiting for {}".format(self.what))
        if self.resumed:
            while_heard()

    def end(self):
        """Kill it, whatever its state. One that cannot be killed (it waits for a disk) is left running."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.process.stdout.close()
        if self.process.stderr:
            with self.process.stderr as stream, contextlib.suppress(BlockingIOError):
                os.set_blocking(stream.fileno(), False)  # a child of it may keep it open
                self.errors = os.read(stream.fileno(), 65536).decode("utf-8", "replace")


def run(*argv, **options):
    """Run a command; returns (exit code, output with errors), of which LARGEST bytes are kept.

    options: as for Child.
    """
    child, kept = Child(argv, **options), []
    for piece in child.output():
        if sum(map(len, kept)) < LARGEST:
            kept.append(piece)
    return child.code, b"".join(kept).decode("utf-8", "replace").strip()


def follow(argv, seen, environment=None, **options):
    """Run a command and call `seen` with each line of its output; returns (exit code, last 15 lines).

    options: as for Child.
    """
    child, rest = Child(argv, environment=environment, **options), b""
    tail = collections.deque(maxlen=15)
    for piece in child.output():
        *whole, rest = (rest + piece).split(b"\n")
        if len(rest) > 65536:
            whole, rest = [*whole, rest], b""
        for raw in whole:
            handle_line(raw, tail, seen)
    handle_line(rest, tail, seen)
    return child.code, list(tail)


def handle_line(raw, tail, seen):
    line = raw.decode("utf-8", "replace").rstrip()
    if line.strip():
        tail.append(line)
        seen(line.strip())
