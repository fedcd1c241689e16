"""Commands on a Docker daemon, each with a limit: the host's own or a user's, asked as that user.

A part of models.py; runs on the host's own python3 (3.6 or newer, standard library only).
"""

import contextlib
import time

import accounts
from messages import Failure, TimeIsUp, clock, rounded
from programs import follow, run

BROKE_OFF = (
    "Docker closed the connection while starting the container; see journalctl -u docker. If that names fsnotify, the "
    "host has too few inotify instances to read CDI specs: sysctl fs.inotify.max_user_instances=1024"
)

# Seconds that a command on a user's daemon may take
ANSWER = 30  # for a query; a healthy daemon takes less than one
CHANGE = 90  # `stop` gives a container 30 of them
START = 600  # Compose creates a container, and possibly a network
LONG = 4 * 3600  # to pull, load or build
TURN = 600  # all together in a change that also stops models of the host, beside the time that its models load
SILENCE = 900  # of these, without output
PATIENCE = 4  # times as long on the host's own daemon, which may be busy with much more, and which no user can stop
QUESTIONS = ("container", "events", "image", "info", "logs", "ps", "top", "version")
NAMED = {
    *QUESTIONS,
    *("build", "compose", "config", "create", "exec", "inspect", "load", "ls", "pull", "rename", "rm", "start", "stop"),
    *("tag", "unpause", "up", "update", "volume", "wait"),
}
"""Words of docker commands by which messages name them."""


class Commands:
    """Commands on the daemon of a user, "" for the host's own."""

    def __init__(self, user=""):
        self.user = user
        self.by_hand = "sudo -iu {} docker".format(user) if user else "docker"
        self.silent, self.end, self.turn = None, None, 0
        self.uid, self.become = accounts.as_user(user) if user else (0, [])

    def docker(self, *words):
        """The argv of a docker command."""
        return [*self.become, "docker", *words]

    def run(self, *words, limit=None):
        """Run a docker command; returns (exit code, output with errors).

        It may take `limit` seconds (by default ANSWER or CHANGE), on the host's own daemon PATIENCE times as long.
        After a timeout this raises Failure, and on a user's daemon so does every later command."""
        limit = limit or (ANSWER if words[0] in QUESTIONS else CHANGE)
        return self.within(words, limit if self.user else limit * PATIENCE)

    def within(self, words, limit=None):
        """Like `run`, with the same limit on each daemon, by default START."""
        return self.bounded(words, limit or START, lambda options: run(*self.docker(*words), **options))

    def follow(self, words, seen, limit=None, silence=None, resumed=False):
        """programs.follow for a long docker command with progress output.

        limit, silence: as `limit` of `run`, by default LONG and SILENCE. resumed: as for programs.Child.
        """
        times = 1 if self.user else PATIENCE
        limit, silence = times * (limit or LONG), times * (silence or SILENCE)
        work = lambda options: follow(self.docker(*words), seen, silence=silence, resumed=resumed, **options)  # noqa: E731
        return self.bounded(words, limit, work)

    def bounded(self, words, limit, work):
        """Do some work with these limits and this name. Raises Failure."""
        whole, limit = limit, self.allowed(limit)
        what = "docker " + " ".join([word for word in words if word in NAMED][:2])
        if not self.user:
            return work({"limit": limit, "what": what})
        try:
            return work({"limit": limit, "what": "the Docker of {} ({})".format(self.user, what)})
        except TimeIsUp:
            what = "the Docker of {} does not answer (docker {}: nothing within {}). See "
            what += "systemctl --user -M {}@ status docker"
            why = what.format(self.user, " ".join(words[:2]), clock(limit), self.user)
            # LONG waits for a registry, not for the daemon alone
            self.silent = why if whole <= START and whole == limit else None
            raise Failure(why, "time-is-up") from None

    def give(self, seconds):
        """Let the daemon have this much time altogether from now on, None for no such limit.

        Models of the host may be down meanwhile, and its user decides how long each command takes.
        """
        self.turn, self.end = seconds, None if seconds is None else time.monotonic() + seconds

    def extend(self, seconds):
        """Let the daemon have more time than was given: so long something else was waited for."""
        if self.end is not None:
            self.end += seconds

    def allowed(self, limit):
        """The seconds that a command may take: at most `limit`, and what is left of those given.

        Raises Failure where none are left, and where the daemon did not answer before."""
        if self.silent:
            raise Failure(self.silent, "time-is-up")
        left = limit if self.end is None else self.end - time.monotonic()
        if left <= 0:
            what = "the Docker of {} took longer than {}, which is the limit in a change of the host's models"
            raise Failure(what.format(self.user, rounded(self.turn)), "time-is-up")
        return min(limit, left)

    def answers_within(self, seconds):
        """Does the daemon answer within some seconds?"""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(Failure):
                if self.run("version")[0] == 0:
                    return True
            if self.silent or time.monotonic() > end:
                return False
            time.sleep(0.5)

    def limited(self, *words, limit=CHANGE):
        """Like `must`, with the same limit on each daemon."""
        return self.checked(words, *self.within(words, limit))

    def must(self, *words, **options):
        """A docker command's output. Raises Failure when it fails."""
        return self.checked(words, *self.run(*words, **options))

    def checked(self, words, code, output):
        """The output of a command. Raises Failure where it failed."""
        if code:
            words = " ".join(words[:2])
            raise Failure(
                "{} {} failed: {}".format(self.by_hand, words, output or "exit code {}".format(code)),
                "docker-command-failed",
            )
        return output

    def home_file(self, path):
        """The text of a file in the home of the daemon's user, "" where it cannot be read.

        It is read as that user, so that root follows no link out of a home and waits for no pipe in it."""
        try:
            code, text = run(*self.become, "sh", "-c", 'cat ~/"$1"', "sh", path, limit=ANSWER, what="~/" + path)
        except TimeIsUp:
            return ""
        return "" if code else text


def why_not_started(code, output):
    """The message for a container that Docker does not start. output: of the command that failed."""
    if "error during connect" in output:
        return BROKE_OFF
    lines = output.splitlines() or ["exit code {}".format(code)]
    of_daemon = (line for line in reversed(lines) if "Error response from daemon" in line)
    why = next(of_daemon, None) or next((line for line in reversed(lines) if "rror" in line), lines[-1])
    return "Docker cannot start the container: {}".format(why)
