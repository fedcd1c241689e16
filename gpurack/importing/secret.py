"""Find secrets in commands and settings by their names, and mask them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpurack.spec.secret_names import holds_secret, is_secret

HF_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HF_API_TOKEN", "HUGGINGFACE_TOKEN")
HIDDEN = "***"
ASSIGNED = re.compile(r"([\w-]+)=(?=\S)(.*)", re.DOTALL)
IN_SCRIPT = re.compile(r"(?<!\S)(-[\w-]+)(\s+)([^\s$\"']+|\"[^\"$]*\"|'[^']*')")
"""A flag with its value inside one word, which is a script. A value taken from a variable does not match."""
REFERENCE = re.compile(r"""(["']?)\$([A-Za-z_]\w*|\{[A-Za-z_]\w*\}|\((?:cat |<)[\s\w./-]*\))\1(?=[\s;&|)]|$)""")
"""A value that only says where the secret is: `$KEY`, `"$(cat /run/secrets/key)"`."""
READS = re.compile(r"\$\((?:cat\s+|<\s*)([\w./-]+)\s*\)")
"""The file that a value such as `$(cat /run/secrets/key)` reads."""
PASSWORD_IN_URL = re.compile(r"://[^/@\s]+@")


def mask(value: Any, name: str = "") -> Any:
    """A value of a Compose field with its secrets as ***, also in commands."""
    if isinstance(value, Mapping):
        return {key: mask(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return mask_words(value) if all(isinstance(item, str) for item in value) else [mask(item) for item in value]
    if isinstance(value, str):
        return HIDDEN if holds_secret(name, value) else mask_words([value])[0]
    return value


def mask_words(words: Sequence[str]) -> list[str]:
    """The words of a command with its secrets as ***."""
    shown, hide = [], False
    for word in words:
        word = HIDDEN if hide else ASSIGNED.sub(_mask, word)
        hide = "=" not in word and word.startswith("-") and is_secret(word)
        word = IN_SCRIPT.sub(lambda found: f"{found[1]}{found[2]}{HIDDEN}" if is_secret(found[1]) else found[0], word)
        word = PASSWORD_IN_URL.sub(f"://{HIDDEN}@", word)
        shown.append(re.sub(r"(?i)(bearer\s+)[^\s'\"]+", rf"\1{HIDDEN}", word))
    return shown


def reference(value: str) -> str | None:
    """The variable's name if a value is only a reference such as `$KEY`, else None."""
    found = re.fullmatch(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?", value)
    return found[1] if found else None


def refers_to_secret(value: str) -> bool:
    """True if a value has a variable without a value that is a secret.

    >>> refers_to_secret("Bearer $API_TOKEN"), refers_to_secret("$PORT")
    (True, False)
    """
    return any(map(is_secret, re.findall(r"\$\{?(\w+)", value)))


def file_of(value: str) -> str | None:
    """The file that a value only reads, else None."""
    found = READS.fullmatch(value)
    return found[1] if found else None


def variable_for(name: str, ending: str = "KEY") -> str:
    """The default environment variable for an entry's secret.

    >>> variable_for("qwen2.5-7b")
    'QWEN2_5_7B_KEY'
    """
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").upper()
    return f"{'_' if plain[:1].isdigit() else ''}{plain}_{ending}"


def masked_command(words: Sequence[str], length: int = 70) -> str:
    """A command for messages: shortened, with its secrets as ***."""
    text = " ".join(mask_words(words))
    return text if len(text) <= length else text[: length - 1] + "…"


def _mask(found: re.Match[str]) -> str:
    name, value = found.groups()
    named = REFERENCE.match(value) if is_secret(name) else None
    start = named.end() if named else 0
    rest = HIDDEN if is_secret(name) and not named else ASSIGNED.sub(_mask, value[start:])
    return f"{name}={value[:start]}{rest}"
