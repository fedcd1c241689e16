"""Write files so that they are the old or the new one, whatever happens, and private meanwhile.

A part of the models' runner, on the host's own python3 (3.6 or newer, standard library only)."""

import contextlib
import errno
import os
import struct

import umask_and_path  # noqa: F401 (beside this file)


def write(path, content, mode, uid=0, reader=None):
    """Replace a file atomically; it is never readable by others in between.

    reader: the uid of one further user who may read it. An ACL grants that, because a group may have more members."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o755, exist_ok=True)
    beside = path + ".new"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(beside, mode)
        os.chown(beside, uid, 0)
        if reader is not None:
            grant_read(beside, reader)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(beside)  # frees the space on a full disk
        raise OSError(error.errno, error.strerror, path) from None
    os.rename(beside, path)
    sync(folder)


def put_in_place(beside, path):
    """Rename a file or folder to PATH.

    It is on disk before it has its name, and the name before what comes next: a power cut leaves the old one or the
    whole new one. Files in a folder are on disk already.
    """
    sync(beside)
    os.rename(beside, path)
    sync(os.path.dirname(path))


def sync(path):
    """Make a file's content, or what was renamed in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def grant_read(path, uid):
    """Let one user read a file of root's, like `setfacl -m u:UID:r`, which a host may lack.

    Format: Linux, posix_acl_xattr.h. The mask is what `stat` shows as the group's rights. Raises OSError."""
    nobody = 0xFFFFFFFF
    entries = ((0x01, 6, nobody), (0x02, 4, uid), (0x04, 0, nobody), (0x10, 4, nobody), (0x20, 0, nobody))
    access = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", access)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        raise OSError(
            error.errno, "its file system has no ACLs, which gpurack needs to let one user read this file"
        ) from None
