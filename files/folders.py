"""Creates folders of root's that no other user can redirect. Sent to the host with what it imports.

    folders.py make PATH          for copied files
    folders.py clean PATH         the same; removes what other users can change in it
    folders.py weights PATH USER  for weights of a user's Docker: readable by that user only
    folders.py data PATH USER     the data-root of a user's Docker, created as that user

Exit code 1 with a message on failure. Runs on the host's own python3 (3.6 or newer, standard library only).
"""

import os
import pwd
import shlex
import sys

from accounts import as_user
from messages import Failure
from programs import run  # (beside this file)
from safe_paths import Unsafe, clean_folder, make_folder


def weights(path, user):
    """The folder of a user's weights, to which root writes. Raises Failure where the file system has no ACLs."""
    above, uid = os.path.dirname(path), pwd.getpwnam(user).pw_uid
    make_folder(above, 0o711)
    make_folder(path, 0o700)
    if run("setfacl", "-b", "-m", "u:{}:rx".format(uid), path)[0]:
        what = "the file system of {} has no ACLs, so other users could read the weights of {}."
        raise Failure(what.format(os.path.dirname(above), user), "folder-not-made")


def data(path, user):
    """Create a data-root as the user, or as root where all folders above belong to root. Raises Failure."""
    _, become = as_user(user)
    if run("timeout", "-k", "1", "20", *become, "mkdir", "-p", "--", path)[0] == 0:
        return
    account = pwd.getpwnam(user)
    command = "install -d -o {} -g {} -m 711 {}".format(account.pw_uid, account.pw_gid, shlex.quote(path))
    try:
        make_folder(os.path.dirname(path), instead="choose another data-root")
        os.mkdir(path, 0o700)
    except FileExistsError:
        what = "{} exists, but {} cannot access it, so it cannot be the data-root. See namei -l {}"
        raise Failure(what.format(path, user, shlex.quote(path)), "folder-not-made") from None
    except Unsafe as error:
        what = "{} cannot create the data-root {}, and root creates none in another user's folder. Create it: {} ({})"
        raise Failure(what.format(user, path, command, error), "folder-not-made") from None
    os.chmod(path, 0o711)
    os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def main(action, *arguments):
    try:
        {"make": make_folder, "clean": clean_folder, "weights": weights, "data": data}[action](*arguments)
    except (Failure, OSError) as error:
        sys.stderr.write("error {}\n".format(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
