"""Find secrets in plain text by the name of their field."""

import re

NAMED = re.compile(r"(API[_-]?KEYS?|ACCESS[_-]?KEY|[_-]KEY|TOKEN|SECRET|PASSW(OR)?D|CREDENTIALS?)$", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Does a variable or flag of this name hold a secret?

    >>> is_secret("VLLM_API_KEY"), is_secret("--hf-token"), is_secret("MAX_TOKENS"), is_secret("n_ctx")
    (True, True, False, False)
    """
    return bool(NAMED.search(name))


def holds_secret(name: str, value: str) -> bool:
    """By its name, or because the value is a URL with a password."""
    return is_secret(name) or bool(re.search(r"://[^/@\s:]*:[^/@\s]+@", value))
