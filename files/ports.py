"""The ports that a container publishes, and whether a URL leads to one of them.

A part of models.py; runs on the host's own python3 (3.6 or newer, standard library only).
"""

import ipaddress
import re
from urllib.parse import urlsplit

MOST_PORTS = 100  # of one container that are looked at
PATH = re.compile(r"/[!-~]*\Z")  # of a readiness request


def published(bindings):
    """[(address, port)] that a container publishes over TCP, from Docker's `PortBindings`; "" for all addresses."""
    found = []
    for inner, places in bindings.items() if isinstance(bindings, dict) else ():
        for place in places if isinstance(places, list) and str(inner).endswith("/tcp") else ():
            address, port = (place.get("HostIp"), place.get("HostPort")) if isinstance(place, dict) else (None, None)
            if is_address(address) and isinstance(port, str) and re.match(r"[1-9][0-9]{0,4}\Z", port):
                found.append((address, int(port)))
    return found[:MOST_PORTS]


def is_address(text):
    """Is it an IP address, or "" for all? A name would be looked up when its port is tried."""
    try:
        return text == "" or (isinstance(text, str) and bool(ipaddress.ip_address(text)))
    except ValueError:
        return False


def own_url(url, ports, known=""):
    """The URL of a container's label, if it leads to a port that this container publishes, else None.

    A label may be its image's or its user's: root asks no other address for it. ports: as `published`. known: the URL
    that the plan has; a container in the host's network, which publishes none, has its address and port."""
    try:
        place, plan = urlsplit(url if isinstance(url, str) else ""), urlsplit(known)
        at = place.hostname, place.port
        own = [({"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(ip, ip), port) for ip, port in ports]
        own += [] if ports else [(plan.hostname, plan.port)]
    except ValueError:
        return None
    if place.scheme != "http" or None in at or at not in own or not PATH.match(place.path):
        return None
    return "http://{}:{}{}".format("[{}]".format(at[0]) if ":" in at[0] else at[0], at[1], place.path)
