"""The secrets of a host: their references, errors of those that cannot be read, and their values."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

from gpurack.engines import weights_of
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem
from gpurack.spec.secret import KEY, PERSON, UPSTREAM, Secret, SecretError, Values
from gpurack.spec.weights import HfWeights


def secrets_of(spec: Host) -> dict[str, dict[str, Secret]]:
    """Container → name → reference, for all enabled entries: own key, clients' keys, connections' keys."""
    found = {}
    for key, model in spec.entries.items():
        if not model.enabled:
            continue
        mine = {KEY: model.api_key} if model.api_key else {}
        mine |= {f"{PERSON}{name}": secret for name, secret in model.keys.items()}
        mine |= {
            f"{UPSTREAM}{index}": connection.key
            for index, connection in enumerate(spec.connections(key))
            if connection.key
        }
        if mine:
            found[key] = mine
    return found


def read_secrets(spec: Host) -> dict[str, dict[str, str]]:
    """The secrets of a host with their values: container → name → value. Raises SecretError."""
    return {
        container: {name: secret.read() for name, secret in secrets.items()}
        for container, secrets in secrets_of(spec).items()
    }


def read_token(spec: Host) -> str | None:
    """The Hugging Face token, if an enabled entry has weights from there. Raises SecretError."""
    entries = [entry for entry in spec.everything.values() if entry.enabled]
    if spec.hf_token is None or not any(isinstance(one, HfWeights) for entry in entries for one in weights_of(entry)):
        return None
    token = spec.hf_token.read()
    if len(token.split()) > 1:
        raise SecretError(f"{spec.hf_token.source()} holds more than a token: there is white space in it.")
    return token


def read_logins(spec: Host) -> dict[str, dict[str, str]]:
    """The logins of a host's registries: registry → user and password. Raises SecretError."""
    return {name: {"user": login.user, "password": login.password.read()} for name, login in spec.registries.items()}


def read_values(spec: Host) -> Values:
    """All that a run of this host needs. Raises SecretError."""
    return Values(read_secrets(spec), read_token(spec), read_logins(spec))


def unreadable_secrets(fleet: Mapping[str, Host]) -> list[Problem]:
    """Errors of secrets that enabled entries need and that cannot be read here.

    A secret of several entries is one error, at the first of them.
    """
    missing: dict[str, list[tuple[str, str]]] = {}
    for name, host in fleet.items():
        for path, read in _needed(host):
            try:
                read()
            except SecretError as error:
                missing.setdefault(str(error), []).append((name, path))
    return [
        Problem.of("secret-unreadable", *first, what=sentence + _also(others))
        for sentence, (first, *others) in missing.items()
    ]


def _needed(spec: Host) -> Iterator[tuple[str, Callable[[], str | None]]]:
    """(path in the inventory, function that reads its value) of every secret."""
    yield "hf_token", partial(read_token, spec)
    for registry, login in spec.registries.items():
        yield f"registries.{registry}.password", login.password.read
    for key, secrets in secrets_of(spec).items():
        for field, secret in secrets.items():
            yield f"{spec.kind_of(key)}.{key}.{field}", secret.read


def _also(places: Sequence[tuple[str, str]]) -> str:
    if not places:
        return ""
    (host, path), *more = places
    return f" {host} {path} and {len(more)} more also need it." if more else f" {host} {path} also needs it."


def shared_keys(name: str, spec: Host) -> list[Problem]:
    """Errors of clients of one gateway with the same key.

    Unreadable keys are errors of unreadable_secrets.
    """
    problems = []
    for container, secrets in secrets_of(spec).items():
        owners: dict[str, str] = {}
        for field, secret in secrets.items():
            with suppress(SecretError):
                first = owners.setdefault(secret.read(), field)
                if first != field:
                    path = f"{spec.kind_of(container)}.{container}.{field}"
                    problems.append(Problem.of("secret-shared", name, path, other=first))
    return problems
