"""Where the toolkit's config.toml lies, and what it says, for every program that reads it."""

import os

import tomlfile
from golang import Failure

_RELATIVE = "nvidia-container-runtime/config.toml"


def default_path():
    """NVIDIA_CTK_CONFIG_FILE_PATH, else under XDG_CONFIG_HOME, else /etc: in this order."""
    named = os.environ.get("NVIDIA_CTK_CONFIG_FILE_PATH")
    if named:
        return named
    home = os.environ.get("XDG_CONFIG_HOME")
    return os.path.join(home or "/etc", _RELATIVE)


def defaults():
    real = os.path.exists("/sbin/ldconfig.real")
    return tomlfile.defaults("@/sbin/ldconfig" + (".real" if real else ""))


def load(path):
    """The tree of this file, or the defaults where there is none. Raises Failure."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            text = file.read()
    except FileNotFoundError:
        return defaults()
    except OSError as error:
        raise Failure(f"open {path}: {os.strerror(error.errno).lower()}") from error
    return tomlfile.parse(text)
