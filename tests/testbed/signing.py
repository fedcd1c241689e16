"""The testbed's own throwaway keys, with which its repositories are signed."""

from __future__ import annotations

import fcntl
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.testbed import workshop
from tests.testbed.engine import Engine
from tests.testbed.paths import cache_home


@dataclass(frozen=True)
class SigningKey:
    """A GPG key in a home of its own."""

    home: Path
    fingerprint: str

    @property
    def public(self) -> Path:
        """The armoured public key."""
        return self.home / "public.asc"

    def sign_script(self, folder: Path | str) -> str:
        """Return shell commands that sign the Release file in a folder, both ways that apt knows."""
        gpg = f"gpg --homedir {shlex.quote(str(self.home))} --batch --yes -u {self.fingerprint}"
        where = shlex.quote(str(folder))
        return (
            f"{gpg} --clearsign -o {where}/InRelease {where}/Release\n"
            f"{gpg} --armor --detach-sign -o {where}/Release.gpg {where}/Release\n"
        )


def key(engine: Engine, name: str = "signing") -> SigningKey:
    """Return the key of that name, made at the first call on this machine."""
    home = cache_home() / name
    cache_home().mkdir(parents=True, exist_ok=True)
    with (cache_home() / ".signing.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "fingerprint").exists():
            where = shlex.quote(str(home))
            gpg = f"gpg --homedir {where} --batch"
            script = (
                f"rm -rf {where}; mkdir -m 700 {where}\n"
                f"{gpg} --passphrase '' --quick-generate-key 'gpurack testbed <testbed@localhost>' rsa3072 sign never\n"
                f"{gpg} --armor --export > {where}/public.asc\n"
                f"gpgconf --homedir {where} --kill gpg-agent\n"
                f"{gpg} --with-colons --list-keys | awk -F: '/^fpr/ {{print $10; exit}}' > {where}/fingerprint\n"
            )
            workshop.work(engine, script, what="Making the testbed's signing key")
        return SigningKey(home, (home / "fingerprint").read_text().strip())
