"""Users' accounts on this host, and how root runs a command as one of them.

A part of models.py; runs on the host's own python3 (3.6 or newer, standard library only).
"""

import contextlib
import functools
import pwd

from messages import Failure
from paths import words_of_user
from programs import run

KEEPING = ("--pdeathsig", "keep")  # an option of setpriv


def as_user(user):
    """(uid, argv prefix that runs a command as this user). Root talks to a user's daemon only that way.

    The command dies with this program where the host's setpriv can pass that on. Raises Failure for an unknown user."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise Failure("the user {} does not exist".format(user), "no-such-user") from None
    program, *words = words_of_user(user, account.pw_uid, account.pw_gid, account.pw_dir)
    return account.pw_uid, [program, *(KEEPING if keeps_signal() else ()), *words]


@functools.lru_cache(maxsize=None)
def keeps_signal():
    """Can setpriv keep the signal of `programs.die_with_parent`, which the kernel clears for another user's program?

    util-linux 2.33 and later can."""
    return not run("setpriv", *KEEPING, "true")[0]


def exists(user):
    """Does the user's account exist? True for "", the host's own Docker."""
    with contextlib.suppress(Failure):
        return not user or bool(as_user(user))
    return False
