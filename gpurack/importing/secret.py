"""Secrets in what people type: found by name, never repeated."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpurack.spec.secret_names import holds_secret, is_secret

HF_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HF_API_TOKEN", "HUGGINGFACE_TOKEN")
HIDDEN = "***"
ASSIGNED = re.compile(r"([\w-]+)=(?=\S)(.*)", re.DOTALL)
IN_SCRIPT = re.compile(r"(?<!\S)(-[\w-]+)(\s+)([^\s$\"']+|\"[^\"$]*\"|'[^']*')")
"""A flag and its value inside one word, which is a script's; what the script takes from a variable is none."""
PASSWORD_IN_URL = re.compile(r"://[^/@\s]+@")


def hidden(value: Any, name: str = "") -> Any:
    """A value of Compose's with what is secret in it as ***; words of commands, too."""
    if isinstance(value, Mapping):
        return {key: hidden(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return hidden_words(value) if all(isinstance(item, str) for item in value) else [hidden(item) for item in value]
    if isinstance(value, str):
        return HIDDEN if holds_secret(name, value) else hidden_words([value])[0]
    return value


def hidden_words(words: Sequence[str]) -> list[str]:
    """The words of a command; the value of a secret is ***."""
    shown, hide = [], False
    for word in words:
        word = HIDDEN if hide else ASSIGNED.sub(_hidden, word)
        hide = "=" not in word and word.startswith("-") and is_secret(word)
        word = IN_SCRIPT.sub(lambda found: f"{found[1]}{found[2]}{HIDDEN}" if is_secret(found[1]) else found[0], word)
        word = PASSWORD_IN_URL.sub(f"://{HIDDEN}@", word)
        shown.append(re.sub(r"(?i)(bearer\s+)[^\s'\"]+", rf"\1{HIDDEN}", word))
    return shown


def reference(value: str) -> str | None:
    """The variable that a value is nothing but: `$KEY`."""
    found = re.fullmatch(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?", value)
    return found[1] if found else None


def variable_for(name: str, ending: str = "KEY") -> str:
    """The environment variable in which gpurack would look for an entry's secret.

    >>> variable_for("qwen2.5-7b")
    'QWEN2_5_7B_KEY'
    """
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").upper()
    return f"{'_' if plain[:1].isdigit() else ''}{plain}_{ending}"


def masked(words: Sequence[str], length: int = 70) -> str:
    """A command for the reader, shortened, without values of secrets."""
    text = " ".join(hidden_words(words))
    return text if len(text) <= length else text[: length - 1] + "…"


def _hidden(found: re.Match[str]) -> str:
    rest = HIDDEN if is_secret(found[1]) else ASSIGNED.sub(_hidden, found[2])
    return f"{found[1]}={rest}"
