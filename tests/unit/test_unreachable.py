"""Why a host cannot be reached."""

from pathlib import Path
from socket import gaierror
from types import SimpleNamespace
from typing import Any

import pytest
from paramiko import AuthenticationException, SSHException
from pyinfra.api.exceptions import PyinfraError
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.connectors.sshuserclient.client import SSHClient

from gpurack.facts.unreachable import why_unreachable
from gpurack.pyinfra_patches import queue_at_jump_hosts


def unreachable(cause: Exception, **fields: str) -> str:
    connector = SSHConnector.__new__(SSHConnector)
    connector.data = dict.fromkeys(("ssh_hostname", "ssh_user", "ssh_port", "ssh_key", "ssh_config_file"))  # type: ignore[assignment]
    connector.data.update(fields)  # type: ignore[typeddict-item]
    host: Any = SimpleNamespace(connector=connector, name="gpu1.lab")
    error = ValueError("as pyinfra words it")
    error.__context__ = cause
    return why_unreachable(host, error)


@pytest.mark.parametrize("said", ["No existing session", "Error reading SSH protocol banner"])
def test_a_silent_sshd_is_named(said: str) -> None:
    found = unreachable(SSHException(said))
    assert found == "could not connect: sshd accepts the connection, but does not answer. Try `ssh gpu1.lab`."


def test_a_missing_ssh_configuration_is_named(tmp_path: Path) -> None:
    """pyinfra goes on without it, and does not find the host."""
    said = unreachable(gaierror(-2, "Name or service not known"), ssh_config_file=f"{tmp_path}/none")
    assert said.startswith(
        f"could not connect: `ssh_config_file` {tmp_path}/none: no such file. Correct it, or remove it"
    )


def test_a_ssh_configuration_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    """pyinfra does not catch the error of its decoding."""
    (config := tmp_path / "config").write_bytes(b"# M\xfcnchen\n")
    queue_at_jump_hosts()
    with pytest.raises(SSHException, match=r"config is not UTF-8 text \(byte 4\); save it as UTF-8$"):
        SSHClient().connect("gpu1.lab", _pyinfra_ssh_config_file=str(config))


@pytest.mark.parametrize(
    ("fields", "configured", "sentence"),
    [
        ({"ssh_user": "ubuntu"}, {}, "login as ubuntu (`ssh_user` in the inventory) refused. For another user, change"),
        ({}, {"username": "ics"}, "login as ics (`User` in ~/.ssh/config) refused. For another user, set"),
        ({}, {}, "login as ada (your name on this computer) refused. For another user, set"),
    ],
)
def test_a_refused_login_says_where_the_user_comes_from(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, str], configured: dict[str, str], sentence: str
) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.setattr(SSHConnector, "client", SimpleNamespace(_ssh_config=configured), raising=False)
    found = unreachable(AuthenticationException(), **fields)
    assert found.startswith(f"could not connect: {sentence} `ssh_user`; for another key, set `ssh_key`. Try `ssh ")


def test_another_error_keeps_its_words() -> None:
    assert unreachable(SSHException("other")) == "could not connect: other. Try `ssh gpu1.lab`."


def test_an_encrypted_key_is_not_called_unreadable() -> None:
    said = unreachable(PyinfraError("Private key file (~/.ssh/id) is encrypted, set ssh_key_password to use this key"))
    assert said.endswith("is encrypted. Set `ssh_key_password`, or remove `ssh_key`: your ssh agent is used then.")
