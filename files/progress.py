"""What is shown while something takes long: what is waited for, how far it is, how fast.

A part of the models' runner, on the host's own python3 (3.6 or newer, standard library only)."""

import collections
import contextlib
import threading
import time

from messages import clock, say, size

EVERY = 5  # seconds between two progress messages
SHOWN = threading.local()  # has `text` while somebody else prints what this thread waits for


class Progress:
    """Prints a message at most every EVERY seconds; a quick step prints none."""

    def __init__(self, name):
        self.name, self.begun, self.last = name, time.monotonic(), time.monotonic()

    def elapsed(self):
        return time.monotonic() - self.begun

    def is_due(self):
        return time.monotonic() - self.last >= EVERY

    def tell(self, text):
        if self.is_due():
            self.last = time.monotonic()
            say(self.name, "{}, {}".format(text, clock(self.elapsed())))


class Speed:
    """Bytes/s of the last SECONDS, from counts of bytes that grow."""

    SECONDS = 15

    def __init__(self, count=0):
        self.seen = collections.deque([(time.monotonic(), count)])

    def at(self, count):
        """The speed now; 0 at once after the beginning."""
        now = time.monotonic()
        self.seen.append((now, count))
        while now - self.seen[0][0] > self.SECONDS and len(self.seen) > 2:
            self.seen.popleft()
        begun, first = self.seen[0]
        return max(0, count - first) / (now - begun) if now > begun else 0


def reading(progress, what, size_now):
    """A function that shows how much of a file was read: `what, 3.1 GB of 5.0 GB, 900 MB/s, 0:02 left`.

    size_now: a function that returns the file's size, asked only where there is something to show."""
    speed = Speed()

    def tell(done):
        if not progress.is_due():
            return
        rate, total = speed.at(done), 0
        with contextlib.suppress(OSError):  # on NFS, root may not see it
            total = size_now()
        of = " of {}".format(size(total)) if total else ""
        left = ", {} left".format(clock((total - done) / rate)) if rate and total > done else ""
        progress.tell("{}, {}{}, {}/s{}".format(what, size(done), of, size(rate), left))

    return tell


@contextlib.contextmanager
def show_progress(progress, text):
    """Print every few seconds what is waited for while the block runs."""
    done, SHOWN.text = threading.Event(), text

    def tell():
        while not done.wait(1):
            progress.tell(text)

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        yield
    finally:
        SHOWN.text = ""
        done.set()
        thread.join()
