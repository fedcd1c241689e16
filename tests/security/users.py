"""A user of a host, for tests that run as root: `nobody`, who owns the files of the tests' user `eve`."""

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
    """Give it to the user; a link itself, not its target."""
    account = pwd.getpwnam(USER)
    os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
    return path


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder of root that users can enter, unlike pytest's own."""
    made = Path(tempfile.mkdtemp(prefix="gpurack-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)
