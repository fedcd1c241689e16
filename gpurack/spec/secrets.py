"""The secrets that a host's containers are given: where they are on the admin's machine, by container and name."""

from gpurack.spec.model import Host, Secret

KEY = "api_key"
UPSTREAM = "upstream_key_"
"""In front of the number of a connection whose key it is."""
PERSON = "keys."
"""In front of the name of the person or group."""


def secrets_of(host: Host) -> dict[str, dict[str, Secret]]:
    """Container → name → reference, of all enabled entries: their own key, those of people, those of what they
    connect to."""
    found = {}
    for key, model in host.entries.items():
        if not model.enabled:
            continue
        mine = {KEY: model.api_key} if model.api_key else {}
        mine |= {f"{PERSON}{name}": secret for name, secret in model.keys.items()}
        mine |= {
            f"{UPSTREAM}{index}": connection.key
            for index, connection in enumerate(host.connections(key))
            if connection.key
        }
        if mine:
            found[key] = mine
    return found


def read_secrets(host: Host) -> dict[str, dict[str, str]]:
    """The same with their values. Raises SecretError."""
    return {
        container: {name: secret.read() for name, secret in secrets.items()}
        for container, secrets in secrets_of(host).items()
    }
