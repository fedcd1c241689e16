"""Why a host cannot be reached."""

from types import SimpleNamespace
from typing import Any

import pytest
from paramiko import SSHException
from pyinfra.connectors.ssh import SSHConnector

from gpurack.facts.unreachable import why_unreachable


def unreachable(cause: Exception) -> str:
    connector = SSHConnector.__new__(SSHConnector)
    connector.data = dict.fromkeys(("ssh_hostname", "ssh_user", "ssh_port", "ssh_key", "ssh_config_file"))  # type: ignore[assignment]
    host: Any = SimpleNamespace(connector=connector, name="gpu1.lab")
    error = ValueError("as pyinfra words it")
    error.__context__ = cause
    return why_unreachable(host, error)


@pytest.mark.parametrize("said", ["No existing session", "Error reading SSH protocol banner"])
def test_a_silent_sshd_is_named(said: str) -> None:
    found = unreachable(SSHException(said))
    assert found == "could not connect: sshd accepts the connection, but does not answer. Try `ssh gpu1.lab`."


def test_another_error_keeps_its_words() -> None:
    assert unreachable(SSHException("other")) == "could not connect: other. Try `ssh gpu1.lab`."
