"""Failures with their codes, lines of output, and durations and sizes as text.

Runs on the host's own python3 (3.6 or newer, standard library only)."""

import os
import re
import sys
import threading

LONGEST = 20000  # characters of a message
QUOTED = "    | "  # before each further line of a message (gpurack/operations/output.py)
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that control a terminal or the direction of text, and further line separators of Unicode."""
UNHEARD = threading.Event()  # set once the output is closed
CODES = {}  # name → the code of what failed, until `say_codes`


class Failure(Exception):
    """An entry cannot be started or changed.

    The text is shown to the admin. code: its kind, one of gpurack/spec/step_codes.py.
    """

    code = "step-failed"

    def __init__(self, text="", code=""):
        super().__init__(text)
        self.code = code or self.code


class CertainFailure(Failure):
    """A new container fails each time, until its entry, its image, its weights or the driver change.

    The record keeps it, so that later runs do not try the same again (gpurack/plan/models/failures.py).
    """


class NoRoom(Failure):
    """Something does not fit on a file system, and nothing was fetched. folder: on it. user: in whose Docker."""

    code = "no-room"

    def __init__(self, text, folder="", user=""):
        super().__init__(text)
        self.folder, self.user = folder, user


class TimeIsUp(Failure):
    """A program exceeded its time limit and was killed. The text names both."""

    code = "time-is-up"


def say(name, text):
    """Print one message, prefixed with the entry's name because several entries print at once.

    Text of programs and answers is data: control characters are replaced, further lines are quoted, so that none is
    read as a message of gpurack, and what is longer than LONGEST is cut. A closed output (pyinfra was killed, the
    connection lost) is remembered, and the work continues, but for what `while_heard` guards."""
    text = text if len(text) <= LONGEST else text[:LONGEST] + "…"
    first, *more = UNSEEN.sub("\ufffd", text).rstrip("\n").split("\n")
    lines = ["{}: {}".format(name, first) if name else first]
    lines += [line if line.startswith(QUOTED) else QUOTED + line for line in more]
    try:
        sys.stdout.buffer.write(("\n".join(lines) + "\n").encode("utf-8"))
        sys.stdout.flush()
    except BrokenPipeError:
        UNHEARD.set()
        with open(os.devnull, "wb") as nobody:  # else Python's own flush at the end, or a program's line, would fail
            os.dup2(nobody.fileno(), sys.stdout.fileno())


def while_heard():
    """Raise Failure where the connection was lost.

    For what changes nothing and is resumed by the next run: pulls, downloads, builds, and waiting before a change. One
    that has begun is finished or undone.
    """
    if UNHEARD.is_set():
        raise Failure("the connection was lost. The next run resumes", "connection-lost")


def describe_error(error):
    """An error as a sentence; an unexpected one with its type. One of the system is `PATH: No space left on device`."""
    if isinstance(error, OSError) and error.strerror:
        return "{}: {}".format(error.filename, error.strerror) if error.filename else error.strerror
    return str(error) if isinstance(error, (Failure, OSError)) else "{}: {}".format(type(error).__name__, error)


def code_of(error):
    """The code of an error, for `say_error`."""
    if isinstance(error, Failure):
        return error.code
    return "host-file-error" if isinstance(error, OSError) else "runner-error"


def say_error(name, why, code):
    """Print that an entry, or something else with a name, failed."""
    CODES[name] = code
    say("", "error {}: {}".format(name, why))


def say_codes():
    """Print the codes of all failures, as gpurack/operations/output.py reads them. The end of a run."""
    if CODES:
        say("", "codes: " + ", ".join("{} {}".format(*each) for each in sorted(CODES.items())))
        CODES.clear()


def clock(seconds):
    """7 → `7 s`, 75 → `1 min 15 s`, 3900 → `1 h 5 min`"""
    whole = int(seconds)
    if whole < 60:
        return "{} s".format(whole)
    if whole < 3600:
        return "{} min {} s".format(whole // 60, whole % 60)
    return "{} h {} min".format(whole // 3600, whole % 3600 // 60)


def rounded(seconds):
    """A limit as text: `30 s`, `10 min`, `16 h`."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return "{:g} {}".format(round(seconds / length, 1), unit)
    return "{:g} s".format(round(seconds, 1))


def size(count):
    """Bytes as text, e.g. `6.1 GB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return "{:.3g} {}".format(count, unit)
        count /= 1000
    return "{:.1f} GB".format(count)
