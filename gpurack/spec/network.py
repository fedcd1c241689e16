"""The vocabulary of the way out: mirrors, logins of registries, a proxy."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from gpurack.spec.fields import Like, Strict
from gpurack.spec.secret import Secret


def url_alone(value: Any) -> Any:
    """A mirror or proxy that is written as its URL alone."""
    return {"url": value} if isinstance(value, str) else value


class Mirror(Strict):
    """A replacement for a package repository or registry.

    url: its base URL (for a registry: host[:port][/prefix], without scheme). key: for a package repository that
    signs with a key of its own, that key's file on the admin's machine (armored); default: the upstream's key.
    """

    url: str
    key: str | None = None

    @field_validator("url")
    @classmethod
    def _is_plain(cls, value: str) -> str:
        if "@" in value:  # not repeated: it may hold a password
            raise ValueError(
                "credentials do not belong in an inventory, and apt and dnf would keep them in files that everybody "
                "reads; a registry's login goes into registries, a package mirror has to know the hosts by address."
            )
        try:
            urlsplit(value)
        except ValueError:  # "http://[::1/debian"
            raise ValueError(f'"{value}" is no address; an IPv6 one stands in [ ].') from None
        return value

    def read_key(self) -> str | None:
        """The key's text, None where the mirror has none of its own. Raises OSError."""
        return Path(self.key).expanduser().read_text() if self.key else None


class Login(Strict):
    """Who gpurack is to a registry. It is used for pulls and builds alone and never kept on the host."""

    user: str = Field(min_length=1, description="the account, or what the registry takes in its place")
    password: Secret = Field(description="its password or token, as a reference to where it is")


class Proxy(Strict):
    """The way out of a closed network.

    url: http://host:port. no_proxy: what is reached without it, as in the environment variable: names, domains
    (".lab.example"), addresses and networks; the host itself always is.
    """

    url: str
    no_proxy: list[Annotated[str, Like(r"[^\s,\"]+", "is not one name, domain or address.")]] = Field(
        [], description="what is reached without it"
    )

    @field_validator("url")
    @classmethod
    def _is_plain(cls, value: str) -> str:
        if "@" in value:  # not repeated: it may hold a password
            raise ValueError(
                "credentials do not belong in an inventory, and apt, dnf and dockerd would keep them in files that "
                "everybody reads; name a forwarder that logs in for the hosts (cntlm, or squid with cache_peer login=)."
            )
        if not re.fullmatch(r"https?://[A-Za-z0-9.\[\]:_-]+/?", value):
            raise ValueError(f'"{value}" is not a proxy\'s URL; write "http://proxy.lab.example:3128".')
        return value.rstrip("/")

    @property
    def direct(self) -> list[str]:
        """`no_proxy`, and the host itself."""
        return ["localhost", "127.0.0.1", "::1", *self.no_proxy]

    @property
    def env(self) -> dict[str, str]:
        """The variables that programs read, in lower case."""
        return {"http_proxy": self.url, "https_proxy": self.url, "no_proxy": ",".join(self.direct)}

    def spares(self, url: str) -> bool:
        """Is a URL reached without it? As curl reads the variable: a name stands for all below it, too."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        return any(
            entry == "*"
            or _covers(entry, host)
            or any(f".{name}".endswith(f".{entry.lower().lstrip('.')}") for name in (host, parts.netloc.lower()))
            for entry in self.direct
        )


def _covers(network: str, host: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:  # one of them is a name
        return False
