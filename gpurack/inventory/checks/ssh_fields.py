"""Check names of hosts, and the names, types and values of pyinfra's fields.

pyinfra (3.10.0) ignores a misspelt field, and ends with a traceback at a wrong type. Its own types are checked here.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, get_type_hints

from paramiko import SSHException
from pyinfra.api.arguments import all_global_arguments
from pyinfra.api.exceptions import ConnectorDataTypeError
from pyinfra.api.util import raise_if_bad_type
from pyinfra.connectors import ssh
from pyinfra.connectors.sshuserclient.client import get_missing_host_key_policy

from gpurack.spec.problems import TYPES, Problem, nearest, wrong_type

TYPES_OF_SSH: Mapping[str, Any] = get_type_hints(ssh.ConnectorData)
"""Field of pyinfra's ssh connector → its type."""
DESCRIPTIONS: Mapping[str, str] = {
    "ssh_hostname": "address or name to connect to; default: the name in the inventory",
    "ssh_port": "port of sshd; default: ~/.ssh/config, else 22",
    "ssh_user": "user to log in as; default: ~/.ssh/config, else your own name",
    "ssh_key": "file of the private key; default: the agent and ~/.ssh",
    "ssh_key_password": "password of the private key",
    "ssh_password": "password to log in with",
    "ssh_allow_agent": "may keys of the ssh agent be used? default: true",
    "ssh_look_for_keys": "may keys in ~/.ssh be used? default: true",
    "ssh_forward_agent": "forward the ssh agent? default: false",
    "ssh_config_file": "file to read in place of ~/.ssh/config",
    "ssh_known_hosts_file": "file to read in place of ~/.ssh/known_hosts",
    "ssh_strict_host_key_checking": "yes, no, ask or accept-new (the default)",
    "ssh_paramiko_connect_kwargs": "further arguments of paramiko's connect",
    "ssh_connect_retry_min_delay": "shortest delay between attempts, in seconds; default: 0.1",
    "ssh_connect_retry_max_delay": "longest delay between attempts, in seconds; default: 0.5",
    "ssh_connect_retries": "further attempts to connect; default: 0",
    "ssh_file_transfer_protocol": "sftp (the default) or scp",
}
JSON_TYPES = {str: "string", int: "integer", bool: "boolean", float: "number", dict: "object"}
SSH_FIELDS: Mapping[str, tuple[str, str]] = {
    field: (JSON_TYPES[kind], DESCRIPTIONS.get(field, "")) for field, kind in TYPES_OF_SSH.items()
}
"""Field → (type in JSON schema, description)."""
DOCKER_FIELDS = ("docker_identifier", "docker_platform", "docker_architecture")
"""The fields of pyinfra's docker connector (`@docker/IMAGE`)."""
TYPES_OF_ARGUMENTS: Mapping[str, Any] = dict(all_global_arguments())
ARGUMENTS = frozenset(TYPES_OF_ARGUMENTS)
"""pyinfra's arguments of every operation, which a host's data may set: `_sudo`, `_sudo_password`, …"""
OF_OTHER_TOOLS = {
    "ansible_host": "ssh_hostname",
    "ansible_port": "ssh_port",
    "ansible_user": "ssh_user",
    "ansible_become": "_sudo",
    "ansible_ssh_private_key_file": "ssh_key",
    "ssh_private_key": "ssh_key",
    "ssh_private_key_file": "ssh_key",
    "ssh_identity_file": "ssh_key",
}
"""What other tools and ssh call a field → pyinfra's name."""
ALIKE, ALIKE_ARGUMENT = 0.72, 0.8
"""How alike a misspelt field of a connector (`ssh_host`), and a misspelt argument, must be (difflib's ratio)."""
IN_WORDS: Mapping[Any, str] = {
    str: TYPES["string_type"],
    int: TYPES["int_type"],
    bool: TYPES["bool_type"],
    float: TYPES["float_type"],
    int | float: TYPES["float_type"],
    dict: TYPES["dict_type"],
}
"""Type of pyinfra's → its name in messages."""
HIGHEST_PORT = 65535
PROTOCOLS = ("sftp", "scp")
WRITTEN = {
    "ssh_port": "22",
    "ssh_user": "root",
    "ssh_hostname": "10.0.0.7",
    "ssh_key": "~/.ssh/id_ed25519",
    "ssh_strict_host_key_checking": '"accept-new"',
    "ssh_file_transfer_protocol": "sftp",
}
"""Field → an example of its value, for hints."""


PASSWORDS = ("ssh_password", "ssh_key_password", "_sudo_password")
"""Fields of pyinfra that hold a password. An inventory in Python can read it from elsewhere."""


def passwords_in(text: str, file: str, data: Mapping[str, Mapping[str, Any]]) -> list[Problem]:
    """Warnings of passwords that an inventory contains. text: of its file. data: host → its fields.

    Python can read a password from elsewhere: only one that is a constant of the file counts.
    """
    is_python = file.endswith(".py")
    constants = {
        str(node.value) for node in ast.walk(ast.parse(text if is_python else "")) if isinstance(node, ast.Constant)
    }
    return [
        Problem.of("password-in-inventory", host, field, field=field, file=file)
        for host, fields in data.items()
        for field in PASSWORDS
        if fields.get(field) and (not is_python or str(fields[field]) in constants)
    ]


def host_name_problems(host: str, data: Mapping[str, Any]) -> list[Problem]:
    """Errors of a name that ssh cannot connect to: `root@gpu1.lab`, `gpu1.lab:2222`. "@…" is a connector of pyinfra's.

    With `ssh_hostname`, the name is a label.
    """
    if not host or host.startswith("@") or data.get("ssh_hostname") or re.fullmatch(r"\w[\w.-]*", host):
        return []
    try:
        ip_address(host)
    except ValueError:
        found = re.fullmatch(r"(?:\w+://)?(?:(?P<user>[\w.-]+)@)?(?P<name>\w[\w.-]*)(?::(?P<port>\d+))?/?", host)
        parts = found.groupdict() if found else {}
        fields = [f"`ssh_{field}: {parts[field]}`" for field in ("user", "port") if parts.get(field)]
        below = f", and {' and '.join(fields)} among its fields" if fields else ""
        hint = f"Write {parts['name']}{below}." if parts else "Write the name or address that ssh connects to."
        return [Problem.of("invalid-host-name", host, hint=hint)]
    return []


def unknown_fields(host: str, data: Mapping[str, Any], known: Sequence[str]) -> list[Problem]:
    """Errors of keys of a host's merged data that are close to a field. known: gpurack's own fields.

    Other keys are the users' own, for other deploys of theirs.
    """
    problems = []
    for key, value in data.items():
        if key in known or key in SSH_FIELDS or key in DOCKER_FIELDS or key in ARGUMENTS:
            continue
        if guess := meant_of_pyinfra(key, value):
            problems.append(Problem.of("unknown-field", host, key, name=key, hint=f'Did you mean "{guess}"?'))
        elif not key.startswith(("_", "ssh_", "docker_")) and nearest(key, known):
            problems.append(Problem.unknown("unknown-field", key, known, host, key))
    return problems


def meant_of_pyinfra(key: str, value: Any) -> str | None:
    """The field of pyinfra's that an unknown key is close to; None if it cannot be meant.

    >>> meant_of_pyinfra("ssh_usr", "ada"), meant_of_pyinfra("sudo", True), meant_of_pyinfra("ssh_keys", ["ada.pub"])
    ('ssh_user', '_sudo', None)
    """
    if f"_{key}" in ARGUMENTS and "sudo" in key:
        return f"_{key}"
    if key.startswith("_"):
        return nearest(key, ARGUMENTS, ALIKE_ARGUMENT)
    guess = OF_OTHER_TOOLS.get(key) or nearest(key, [*SSH_FIELDS, *DOCKER_FIELDS], ALIKE)
    if isinstance(value, list | dict) and guess != "ssh_paramiko_connect_kwargs":
        return None  # those fields are scalars
    return guess


def ssh_field_problems(host: str, data: Mapping[str, Any]) -> list[Problem]:
    """Errors of values in a host's merged data with which pyinfra would end: of its ssh connector, and its arguments.

    null is an error for the connector alone: it takes an argument that is null for one that is not given.
    """
    problems = []
    for field, kind in {**TYPES_OF_SSH, **TYPES_OF_ARGUMENTS}.items():
        value = data.get(field)
        if field not in data or not field.startswith(("ssh_", "_")) or (value is None and field in ARGUMENTS):
            continue
        if value is None:
            example = f"{field}: {WRITTEN[field]}" if field in WRITTEN else "a value"
            problems.append(Problem.of("connection-field-empty", host, field, example=example))
        elif not of_type(value, kind):
            problems.append(wrong_connection_type(kind, value, field).at(host, field))
        elif wrong := wrong_value(field, value):
            problems.append(wrong.at(host, field))
    return problems


def of_type(value: Any, kind: Any) -> bool:
    """Does pyinfra take a value for a field of this type? A truth value is no number here.

    >>> of_type(22, int), of_type("22", int), of_type(True, int), of_type(1, float), of_type({"A": "b"}, dict)
    (True, False, False, True, True)
    """
    if isinstance(value, bool) and kind in (int, float, int | float):
        return False
    try:
        raise_if_bad_type(value, kind, ConnectorDataTypeError, "")
    except ConnectorDataTypeError:
        return False
    return True


def wrong_connection_type(kind: Any, value: Any, field: str) -> Problem:
    """The problem of a field of pyinfra with a value of a wrong type, with what to write. It quotes no password.

    >>> print(wrong_connection_type(str, 5, "_sudo_password"))
    must be text, not a number. Write the value in quotes.
    >>> wrong_connection_type(str, False, "ssh_strict_host_key_checking").hint
    'Write ssh_strict_host_key_checking: "no".'
    """
    expected = IN_WORDS.get(kind, f"of the type {kind}".replace("collections.abc.", ""))
    if field.endswith("password"):
        shown = "a number" if isinstance(value, int | float) else f"of the type {type(value).__name__}"
        return Problem.of("wrong-type", expected=expected, value=shown, hint="Write the value in quotes.")
    if kind is str and isinstance(value, bool):
        return Problem.of(
            "wrong-type", expected=expected, value=repr(value), hint=f'Write {field}: "{"yes" if value else "no"}".'
        )
    if kind is str and isinstance(value, int | float):
        return Problem.of("wrong-type", expected=expected, value=repr(value), hint=f'Write {field}: "{value}".')
    return wrong_type(expected, value, field)


def wrong_value(field: str, value: Any) -> Problem | None:
    """The problem of a value of the right type that pyinfra or ssh cannot use; None if there is none."""
    if field == "ssh_port" and not 0 < value <= HIGHEST_PORT:
        return Problem.of(
            "out-of-range", limit=f"from 1 to {HIGHEST_PORT}", value=repr(value), hint="Write ssh_port: 22."
        )
    if field == "ssh_file_transfer_protocol" and value not in PROTOCOLS:
        return Problem.of("unknown-value", expected=" or ".join(map(repr, PROTOCOLS)), value=repr(value))
    if field == "ssh_strict_host_key_checking":
        try:
            get_missing_host_key_policy(value)
        except SSHException:
            return Problem.of("unknown-value", expected="'yes', 'no', 'ask' or 'accept-new'", value=repr(value))
    if value == "" and field in ("ssh_user", "ssh_hostname"):
        return Problem.of("connection-field-empty", example=f"{field}: {WRITTEN[field]}")
    return None
