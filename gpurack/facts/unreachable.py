"""Why a host cannot be reached, as one sentence with the command that shows the same by hand."""

import base64
import errno
import getpass
import hashlib
import re
from pathlib import Path
from socket import gaierror
from typing import Any

from paramiko import AuthenticationException, BadHostKeyException, PKey
from paramiko.ssh_exception import NoValidConnectionsError
from pyinfra.api import Host
from pyinfra.api.exceptions import PyinfraError
from pyinfra.connectors.ssh import SSHConnector

from gpurack.shell import sh

SSH_PORT = 22
OF_INVENTORY = "`ssh_user` in the inventory"


def why_unreachable(host: Host, error: Exception) -> str:
    """The sentence for pyinfra's ConnectError, with the command to try.

    pyinfra (3.10.0) keeps only the text of the error that it caught; the error itself is its context.
    """
    if not isinstance(host.connector, SSHConnector):
        return f"could not connect: {_plain(str(error))}."
    data, cause = host.connector.data, error.__context__
    address = data["ssh_hostname"] or host.name
    if isinstance(cause, PyinfraError):  # of its own check of `ssh_key`
        if "encrypted" in str(cause):
            why = f"could not connect: `ssh_key` {_plain(str(data['ssh_key']))} is encrypted."
            return f"{why} Set `ssh_key_password`, or remove `ssh_key`: your ssh agent is used then."
        what = "is not a file on this computer" if "No such" in str(cause) else "cannot be read as a private key"
        why = f"could not connect: `ssh_key` {_plain(str(data['ssh_key']))} {what}."
        return f"{why} Correct it, or remove it: the keys of your ssh are tried then."
    if data["ssh_config_file"] and not Path(str(data["ssh_config_file"])).expanduser().is_file():  # pyinfra reads on
        why = f"could not connect: `ssh_config_file` {_plain(str(data['ssh_config_file']))}: no such file."
        return f"{why} Correct it, or remove it: ~/.ssh/config is read then."
    if isinstance(cause, BadHostKeyException):
        return changed_key(cause, address, _port(host.connector))
    command = ssh_command(address, data)
    if isinstance(cause, gaierror):
        return f"could not connect: unknown host name `{address}`. Try `{command}`."
    if isinstance(cause, AuthenticationException):
        return f"could not connect: {refused_login(host)} Try `{command}`."
    if isinstance(cause, TimeoutError):
        return f"could not connect: no answer. Is the host up? Try `{command}`."
    if isinstance(cause, NoValidConnectionsError):
        reasons = {getattr(each, "errno", None) for each in cause.errors.values()}
        where = f"port {_port(host.connector)} of {address}"
        if reasons == {errno.ECONNREFUSED}:
            return f"could not connect: nothing listens on {where}. Does sshd run there? Try `{command}`."
        if reasons & {errno.EHOSTUNREACH, errno.ENETUNREACH}:
            return f"could not connect: no route to {address}. Is the host up, and your VPN? Try `{command}`."
    said = _plain(str(cause or error))
    if re.search(r"No existing session|protocol banner", said):  # of paramiko 4.0
        said = "sshd accepts the connection, but does not answer"
    return f"could not connect: {said}. Try `{command}`."


def login_user(host: Host) -> tuple[str, str]:
    """The user who logs in, "" if unknown, and where the name comes from."""
    if isinstance(host.connector, SSHConnector):
        data = host.connector.data
        if data["ssh_user"]:
            return str(data["ssh_user"]), OF_INVENTORY
        # a connection of paramiko has it, if ~/.ssh/config has one
        if user := getattr(getattr(host.connector, "client", None), "_ssh_config", {}).get("username"):
            return str(user), f"`User` in {data['ssh_config_file'] or '~/.ssh/config'}"
    try:
        return getpass.getuser(), "your name on this computer"
    except (OSError, KeyError):
        return "", ""


def refused_login(host: Host) -> str:
    """The sentences for a login that the host refused: as whom, why as this user, and what to change."""
    user, source = login_user(host)
    verb = "change" if source == OF_INVENTORY else "set"
    who = f" as {user} ({source})" if user else ""
    return f"login{who} refused. For another user, {verb} `ssh_user`; for another key, set `ssh_key`."


def sudo_needs_password(user: str) -> str:
    """The sentence for a sudo that asks for a password, where nobody can be asked. user: who logs in."""
    whose = f" for {user}" if user else ""
    return (
        f"sudo requires a password{whose}. Run from a terminal, where you are asked for it, or allow sudo without a "
        "password."
    )


def ssh_command(address: str, data: Any) -> str:
    """`ssh -p 2222 admin@gpu1.lab`: the command that connects as pyinfra does. data: the host's `ssh_…` fields."""
    words = ["ssh"]
    if data["ssh_config_file"]:
        words += ["-F", str(data["ssh_config_file"])]
    if data["ssh_key"]:
        words += ["-i", str(data["ssh_key"])]
    if data["ssh_port"]:
        words += ["-p", str(data["ssh_port"])]
    target = f"{data['ssh_user']}@{address}" if data["ssh_user"] else address
    return sh("{words}", words=[*words, target])


def changed_key(error: BadHostKeyException, address: str, port: int) -> str:
    """The sentence for a host key that differs from the one in known_hosts."""
    entry = address if port == SSH_PORT else f"[{address}]:{port}"
    return (
        f"could not connect: the host key changed. known_hosts has {fingerprint(error.expected_key)}, the host shows "
        f"{fingerprint(error.key)}. Compare it on the host's console (`ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub`). "
        f"If the host was reinstalled, run `{sh('ssh-keygen -R {}', entry)}` and try again."
    )


def fingerprint(key: PKey) -> str:
    """A key's fingerprint as `ssh-keygen -l` prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")


def _port(connector: SSHConnector) -> int:
    configured = getattr(connector.client, "_ssh_config", {}).get("port")
    return int(connector.data["ssh_port"] or configured or SSH_PORT)


def _plain(text: str) -> str:
    """pyinfra's and Python's text without their decoration."""
    return text.replace("[Errno None] ", "").rstrip(". ") or "ssh gave no reason"
