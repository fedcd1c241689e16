"""Which release this stand-in is; build.py writes the real numbers when it packs."""

VERSION = "@VERSION@"
COMMIT = "@COMMIT@"


def as_tuple():
    return tuple(int(part) for part in VERSION.split("."))
