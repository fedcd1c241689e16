"""The fields for network access: mirrors, registry logins, a proxy."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from gpurack.spec.fields import Like, Strict
from gpurack.spec.problems import Wrong
from gpurack.spec.secret import Secret


def url_alone(value: Any) -> Any:
    """A mirror or proxy; a URL alone becomes {"url": …}."""
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
            raise Wrong("mirror-with-login")
        try:
            urlsplit(value)
        except ValueError:  # "http://[::1/debian"
            raise Wrong("invalid-ipv6-url", value=value) from None
        return value

    def read_key(self) -> str | None:
        """The key's text; None if the mirror has no key of its own. Raises OSError."""
        return Path(self.key).expanduser().read_text() if self.key else None


class Login(Strict):
    """A login to a registry. It is used for pulls and builds only, and never kept on the host."""

    user: str = Field(min_length=1, description="the account, or the user name that the registry expects with a token")
    password: Secret = Field(description="a reference to its password or token")


class Proxy(Strict):
    """An HTTP proxy for a host without direct network access.

    url: http://host:port. no_proxy: targets reached without the proxy, as in the environment variable: names, domains
    (".lab.example"), addresses and networks. The host itself is always one.
    """

    url: str
    no_proxy: list[Annotated[str, Like(r"[^\s,\"]+", "invalid-no-proxy")]] = Field(
        [], description="targets that are reached without the proxy"
    )

    @field_validator("url")
    @classmethod
    def _is_plain(cls, value: str) -> str:
        if "@" in value:  # not repeated: it may hold a password
            raise Wrong("proxy-with-login")
        if not re.fullmatch(r"https?://[A-Za-z0-9.\[\]:_-]+/?", value):
            raise Wrong("invalid-proxy", value=value)
        return value.rstrip("/")

    @property
    def direct(self) -> list[str]:
        """`no_proxy`, and the host itself."""
        return ["localhost", "127.0.0.1", "::1", *self.no_proxy]

    @property
    def env(self) -> dict[str, str]:
        """The environment variables of the proxy, in lower case."""
        return {"http_proxy": self.url, "https_proxy": self.url, "no_proxy": ",".join(self.direct)}

    def spares(self, url: str) -> bool:
        """Is a URL reached without the proxy? As in curl, a name also covers its subdomains."""
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
