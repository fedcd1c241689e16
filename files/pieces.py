"""Downloads one file: by several connections if it is large and the server allows ranges. A part of models.py.

Servers, and the ways to them, often limit each connection. Pieces are appended to the file in order, so what a killed
run leaves is the file's beginning, as with one connection; pieces that were not appended have no name and are lost.
Runs on the host's own python3 (3.6 or newer, standard library only) and curl.
"""

import errno
import os
import shutil
import tempfile
import threading
from contextlib import suppress

import download
from messages import Failure, code_of, describe_error, size
from progress import Progress, Speed  # (beside this file)

PIECE = 64 << 20  # bytes
MOST = 4  # connections of one file
AHEAD = 2 * MOST  # pieces that come before they can be appended
TOO_LARGE = 63  # curl(1): --max-filesize


class NoRanges(Exception):
    """The server sends all of a file, whatever is asked for."""


class Ended(Exception):
    """Another piece failed."""


def download_file(name, source, growing, count, before=0, total=None):
    """Download the file that `growing` (of hashes.py) follows, resumed. Raises Failure.

    count: its bytes, None if unknown. For the messages: total, the bytes of all files together; `before` of them are
    complete."""
    part, progress = growing.path, Progress(name)
    speed = Speed(download.length(part))

    def tell(ahead=0):
        have, all_files = download.length(part) + ahead, total or count
        of = " of {}".format(size(all_files)) if all_files else ""
        progress.tell("fetching weights, {}{}, {}/s".format(size(have + before), of, size(speed.at(have))))

    with growing.followed():
        if source.connections != 1 and count is not None and count - download.length(part) >= 2 * PIECE:
            with download.more_turns(source.connections, MOST - 1) as more, suppress(NoRanges):
                fetch(Work(source, part, count, progress), part, 1 + more, tell)
                return
        download.in_one(source, growing, progress, tell)


def fetch(work, part, connections, tell):
    """Append to PART what it lacks. Raises NoRanges, and Failure.

    tell: called every second, with the bytes that have come but are not appended."""
    threads = [threading.Thread(target=work.run) for _ in range(connections)]
    for thread in threads:
        thread.start()
    try:
        with open(part, "ab") as whole:
            for begin in work.begins:
                work.wait_for(begin, tell)
                work.append(begin, whole)
    except Failure:
        work.end(threads)
        with open(part, "ab") as whole:  # what has come of the next piece is kept
            work.append(download.length(part), whole)
        raise
    except OSError as error:
        raise (
            download.no_space(part) if error.errno == errno.ENOSPC else Failure(describe_error(error), code_of(error))
        ) from None
    finally:
        work.end(threads)


class Work:
    """The pieces of one file, shared by the threads that fetch them and the one that appends them."""

    def __init__(self, source, part, count, progress):
        self.source, self.folder, self.count, self.progress = source, os.path.dirname(part), count, progress
        self.begins = range(download.length(part), count, PIECE)
        self.changed = threading.Condition()
        self.taken, self.appended, self.ended, self.error = 0, 0, False, None
        self.streams, self.done = {}, set()  # by begin

    def run(self):
        """Fetch pieces until there are no more."""
        try:
            for begin in iter(self.take, None):
                self.fetch(begin, self.streams[begin])
                with self.changed:
                    self.done.add(begin)
                    self.changed.notify_all()
        except Exception as error:
            with self.changed:
                self.error = self.error or error
                self.changed.notify_all()

    def take(self):
        """The beginning of the next piece to fetch; None where there are no more. Waits while too many are ahead."""
        with self.changed:
            self.changed.wait_for(lambda: self.ended or self.error or self.taken < self.appended + AHEAD)
            if self.ended or self.error or self.taken == len(self.begins):
                return None
            begin = self.begins[self.taken]
            self.taken += 1
            self.streams[begin] = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115
            return begin

    def fetch(self, begin, stream):
        """Fetch one piece, resumed. Raises NoRanges, Ended, and Failure."""
        size, failures = min(PIECE, self.count - begin), 0
        while True:
            had = stream.seek(0, os.SEEK_END)
            if had == size:
                return
            span = "{}-{}".format(begin + had, begin + size - 1)
            limits = ["--range", span, "--max-filesize", str(size - had)]
            done = download.attempt(self.source, self.still_wanted, stream, *limits)
            has = stream.seek(0, os.SEEK_END)
            if done.code == TOO_LARGE or done.status in (200, 416) or has > size:
                raise NoRanges
            failures = 1 if has > had else failures + 1
            if done.code == download.CANNOT_WRITE:
                raise download.no_space(os.path.join(self.folder, "part"))
            if has < size and (failures >= download.TRIES or not (done.passes() or not done.code)):
                raise Failure(download.why_not(self.source.url, done), "download-failed")
            if done.code:
                download.wait_for(self.progress, download.pause(done, failures), done, self.rest)

    def still_wanted(self):
        """Raise Ended if another piece failed."""
        if self.ended or self.error:
            raise Ended

    def rest(self, seconds):
        with self.changed:
            self.changed.wait_for(lambda: self.ended or self.error, seconds)
        self.still_wanted()

    def wait_for(self, begin, tell):
        """Wait for a piece. Raises what ended another one."""
        while begin not in self.done:
            with self.changed:
                self.changed.wait_for(lambda: begin in self.done or self.error, 1)
                if self.error:
                    raise self.error
                ahead = sum(os.fstat(stream.fileno()).st_size for stream in self.streams.values())
            tell(ahead)

    def append(self, begin, whole):
        """Append what has come of a piece to the file, and forget the piece."""
        if begin in self.streams:
            with self.streams[begin] as piece:
                piece.seek(0)
                shutil.copyfileobj(piece, whole, 1 << 20)
            whole.flush()
        with self.changed:
            self.streams.pop(begin, None)
            self.appended += 1
            self.changed.notify_all()

    def end(self, threads):
        """Wait until all threads have ended."""
        with self.changed:
            self.ended = True
            self.changed.notify_all()
        for thread in threads:
            thread.join()
