"""The testbed's inventories on a machine where no testbed was ever started."""

from pathlib import Path

import pytest

from tests.testbed import services


def public_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The public key of the testbed's repositories. It and the models that the testbed serves are made in `folder`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setattr(services, "WEIGHTS", folder)
    path = folder / "gpurack-testbed" / "signing" / "public.asc"
    path.parent.mkdir(parents=True)
    path.write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----")
    return path
