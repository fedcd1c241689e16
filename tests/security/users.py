"""A user of a host, for tests that run as root: `nobody`, who owns what the user `eve` of the tests would."""

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

USER = "nobody"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user, which root alone can")


def give(path: Path) -> Path:
    """The user's from now on; a link itself, not what it leads to."""
    account = pwd.getpwnam(USER)
    os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
    return path


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder of root's that users get to (those of pytest are closed)."""
    made = Path(tempfile.mkdtemp(prefix="gpurack-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)
