"""Fingerprints of armored OpenPGP keys, as `gpg --show-keys` prints them. Pure."""

import base64
import binascii
import hashlib
import re


def fingerprint(armored: str) -> str:
    """Return the fingerprint of the first key. Raises ValueError if the text is not a key.

    It has 40 hex digits for version 4 (RFC 4880, 12.2), 64 for version 6 (RFC 9580, 5.5.4.3).
    """
    found = re.search(r"-----BEGIN PGP PUBLIC KEY BLOCK-----\s*\n(?:[^\n]+\n)*?\s*\n([A-Za-z0-9+/=\s]+?)\n=", armored)
    try:
        body = _first_packet(base64.b64decode(found[1] if found else ""))
        if body[0] == 6:
            return hashlib.sha256(b"\x9b" + len(body).to_bytes(4, "big") + body).hexdigest().upper()
        return hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False).hexdigest().upper()
    except (binascii.Error, IndexError):
        raise ValueError("not an armored OpenPGP key") from None


def _first_packet(data: bytes) -> bytes:
    """The body of the first packet: the primary key (RFC 4880, 4.2)."""
    tag = data[0]
    if tag & 0x40:  # the newer form of lengths
        first = data[1]
        if first < 192:
            return data[2 : 2 + first]
        if first < 224:
            return data[3 : 3 + ((first - 192) << 8) + data[2] + 192]
        return data[6 : 6 + int.from_bytes(data[2:6], "big")]
    size = 1 << (tag & 3)
    return data[1 + size : 1 + size + int.from_bytes(data[1 : 1 + size], "big")]
