"""Which listeners exclude each other on one port.

The programs of files/ use it also: files/listening.py is a link to it. So it imports nothing of gpurack, and Python 3.6
can run it.
"""

import ipaddress

EVERYWHERE = ("", "*", "0.0.0.0", "::")
"""How programs write that they listen at all addresses. With `::`, Linux listens at IPv4 addresses as well."""


def overlap(one: str, other: str) -> bool:
    """Do listeners at these addresses exclude each other on the same port?

    >>> overlap("0.0.0.0", "10.0.0.7"), overlap("127.0.0.1", "10.0.0.7"), overlap("127.0.0.1", "::ffff:127.0.0.1")
    (True, False, True)
    """
    if one == other or one in EVERYWHERE or other in EVERYWHERE:
        return True
    try:
        return _plain(one) == _plain(other)
    except ValueError:
        return False


def _plain(address: str) -> "ipaddress.IPv4Address | ipaddress.IPv6Address":
    parsed = ipaddress.ip_address(address)
    return getattr(parsed, "ipv4_mapped", None) or parsed
