"""The files that a container gets: keys, and the configuration of its engine. Pure.

On the host each container has a folder for them that only root can open. Inside, Compose mounts keys at /run/secrets,
and configuration where the engine expects it.
"""

import hashlib
import hmac
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gpurack.engines.container import Container
from gpurack.spec.connection import Connection
from gpurack.spec.model import Model
from gpurack.spec.secret import KEY, PERSON, UPSTREAM

KEYS = "keys"
"""The file with clients' keys.

A gateway gets only digests of them, so that the keys never leave the admin's machine.
"""


def inside(file: str) -> str:
    """Return the path of a secret in its container."""
    return f"/run/secrets/{file}"


def file_of(path: str) -> str:
    """Return the name on the host of a file that an engine expects at a path inside.

    >>> file_of("/etc/gpurack/litellm.yaml")
    'litellm.yaml'
    """
    return path.rpartition("/")[2]


def targets(entry: Model, connections: Sequence[Connection], container: Container) -> dict[str, str]:
    """Return file on the host → its target in the container, as Compose writes it."""
    keys = [KEY] if entry.api_key else []
    keys += [KEYS] if entry.keys else []
    keys += [f"{UPSTREAM}{index}" for index, other in enumerate(connections) if other.key]
    return {**{key: key for key in keys}, **{file_of(path): path for path in container.files}}


def contents(container: Container, secrets: Mapping[str, str], hash_keys: bool) -> dict[str, str]:
    """Return file on the host → its text. secrets: of the container, by the names of spec/secret.py.

    hash_keys: Engine.hash_client_keys.
    """
    keys = {name.removeprefix(PERSON): key for name, key in secrets.items() if name.startswith(PERSON)}
    by_client = {name: digest_of_key(key) if hash_keys else key for name, key in keys.items()}
    return {
        **{name: f"{value}\n" for name, value in secrets.items() if not name.startswith(PERSON)},
        **({KEYS: json.dumps(by_client, indent=1, sort_keys=True) + "\n"} if by_client else {}),
        **{file_of(path): text for path, text in container.files.items()},
    }


def kept(
    texts: Mapping[str, str], container: Container, made: Mapping[str, str], there: Collection[str]
) -> dict[str, str | None]:
    """Return the files of a container that keeps those of an older gpurack.

    None: the file stays unchanged. texts: from `contents`. made: fingerprints of the files for its engine, from its
    label. there: the names of all files on the host. A missing file is written again.
    """
    own = {file_of(path) for path in container.files}
    found: dict[str, str | None] = {file: text for file, text in texts.items() if file not in own}
    for file, mark in made.items():
        text, salt = texts.get(file), mark.partition(":")[0]
        same = text is not None and mark == f"{salt}:{fingerprint(text, salt)}"
        found[file] = text if same or file not in there else None
    return found


def digest_of_key(key: str) -> str:
    """Return what a gateway knows about a client's key."""
    return hashlib.sha256(key.encode()).hexdigest()


def fingerprints(
    entry: Model, connections: Sequence[Connection], container: Container, secrets: Mapping[str, str], salt: str
) -> dict[str, Any]:
    """Return words of a definition that change if one of its files does, and reveal nothing else.

    api_key, keys (by client), upstream_keys (by what it connects to), files (by name), and config, which is the
    inventory's part of a file.
    """
    salted = {secret: f"{salt}:{fingerprint(value, salt)}" for secret, value in secrets.items()}
    config = None if entry.config is None else json.dumps(entry.config, sort_keys=True)
    return {
        "config": None if config is None else f"{salt}:{fingerprint(config, salt)}",
        "api_key": salted.get(KEY),
        "keys": {who.removeprefix(PERSON): text for who, text in salted.items() if who.startswith(PERSON)},
        "upstream_keys": {
            connection.label: salted[f"{UPSTREAM}{index}"]
            for index, connection in enumerate(connections)
            if f"{UPSTREAM}{index}" in salted
        },
        "files": {file_of(path): f"{salt}:{fingerprint(text, salt)}" for path, text in container.files.items()},
    }


def fingerprint(text: str, salt: str) -> str:
    """Return a digest that changes with a text and reveals nothing else about it."""
    return hmac.new(salt.encode(), text.encode(), hashlib.sha256).hexdigest()[:32]
