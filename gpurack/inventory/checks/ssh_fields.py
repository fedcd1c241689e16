"""Names of hosts, and the types of the fields of pyinfra's ssh connector. pyinfra (3.10.0) ends with a traceback at
others.
"""

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from gpurack.spec.problems import TYPES, Problem, wrong_type

SSH_FIELDS: Mapping[str, tuple[str, str]] = {
    "ssh_hostname": ("string", "address or name to connect to; default: the name in the inventory"),
    "ssh_port": ("integer", "port of sshd; default: ~/.ssh/config, else 22"),
    "ssh_user": ("string", "user to log in as; default: ~/.ssh/config, else your own name"),
    "ssh_key": ("string", "file of the private key; default: the agent and ~/.ssh"),
    "ssh_key_password": ("string", "password of the private key"),
    "ssh_password": ("string", "password to log in with"),
    "ssh_allow_agent": ("boolean", "may keys of the ssh agent be used? default: true"),
    "ssh_look_for_keys": ("boolean", "may keys in ~/.ssh be used? default: true"),
    "ssh_forward_agent": ("boolean", "forward the ssh agent? default: false"),
    "ssh_config_file": ("string", "file to read in place of ~/.ssh/config"),
    "ssh_known_hosts_file": ("string", "file to read in place of ~/.ssh/known_hosts"),
    "ssh_strict_host_key_checking": ("string", "yes, no, ask or accept-new (the default)"),
    "ssh_paramiko_connect_kwargs": ("object", "further arguments of paramiko's connect"),
    "ssh_connect_retry_min_delay": ("number", "shortest delay between attempts, in seconds; default: 0.1"),
    "ssh_connect_retry_max_delay": ("number", "longest delay between attempts, in seconds; default: 0.5"),
    "ssh_connect_retries": ("integer", "further attempts to connect; default: 0"),
    "ssh_file_transfer_protocol": ("string", "sftp (the default) or scp"),
}
"""Field → (type in JSON schema, description)."""
PYTHON: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "object": (dict, "dict_type"),
    "number": ((int, float), "float_type"),
    "string": (str, "string_type"),
    "integer": (int, "int_type"),
    "boolean": (bool, "bool_type"),
}


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


def ssh_field_problems(host: str, data: Mapping[str, Any]) -> list[Problem]:
    """Errors of values with a wrong type in a host's merged data. As pyinfra does, it takes digits in quotes."""
    problems = []
    for field, (name, _) in SSH_FIELDS.items():
        value = data.get(field)
        kind, code = PYTHON[name]
        right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        digits = kind is int and isinstance(value, str) and value.isdigit()
        if value is not None and not (right or digits):
            problems.append(wrong_type(TYPES[code], value, field).at(host, field))
    return problems
