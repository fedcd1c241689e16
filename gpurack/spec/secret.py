"""A secret in the inventory: a reference to its place on the admin's machine, never its value."""

import os
import re
import subprocess
import time
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from gpurack import screen
from gpurack.once import once
from gpurack.spec.fields import Strict
from gpurack.spec.problems import Wrong

KEY = "api_key"
UPSTREAM = "upstream_key_"
"""Prefix of the names of connections' keys; their number follows."""
PERSON = "keys."
"""Prefix of the names of clients' keys; the name of the user or group follows."""

PATIENCE = 300
"""Seconds that the command of a secret may take: it may ask its user."""
SIGN_OF_LIFE = 5
"""Seconds between two messages that say which command is waited for."""
NAMED = 100
"""Characters of a command in that message."""


class SecretError(Exception):
    """A secret could not be read on the admin's machine. The text says which and why, never its value."""


class Secret(Strict):
    """The source of a secret on the admin's machine: exactly one of the three.

    env: the name of an environment variable. file: a path (~ allowed). command: words of a command that prints it.
    """

    env: str | None = None
    file: str | None = None
    command: Annotated[list[str], Field(min_length=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_reference(cls, value: Any) -> Any:
        if isinstance(value, str) and (name := re.fullmatch(r"\$\{?([A-Z][A-Z0-9_]+)\}?", value)):
            raise Wrong("secret-variable-not-read", name=name[1])
        if not isinstance(value, dict | Secret):
            raise Wrong("secret-in-inventory")
        return value

    @field_validator("env")
    @classmethod
    def _env_is_a_name(cls, value: str | None) -> str | None:
        # not repeated: it may be the secret itself
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise Wrong("invalid-secret-variable")
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> "Secret":
        if sum(source is not None for source in (self.env, self.file, self.command)) != 1:
            raise Wrong("one-secret-source")
        return self

    def read(self) -> str:
        """The secret's value, without surrounding white space. It is read once, so that a run uses one value.

        Raises SecretError for an empty value, several lines or control characters, which could end the header or
        line of a configuration with the key.
        """
        return self._value

    @cached_property
    def _value(self) -> str:
        value = self._raw().strip()
        if not value:
            what = "printed nothing; let it print" if self.command else "is empty; let it hold"
            raise SecretError(f"{self.source()} {what} the secret.")
        if len(value.splitlines()) > 1:  # what `pass show` prints below the password; no HTTP header holds it
            raise SecretError(f"{self.source()} holds more than one line; let it be the secret alone.")
        if any(unicodedata.category(character) == "Cc" for character in value):
            raise SecretError(f"{self.source()} holds a control character; let it be printable text alone.")
        return value

    def source(self) -> str:
        """Where it comes from, for messages."""
        if self.env is not None:
            return f"environment variable {self.env}"
        if self.file is not None:
            return f"file {self.file}"
        return f"command {' '.join(self.command or [])}"

    def _raw(self) -> str:
        if self.env is not None:
            if self.env not in os.environ:
                raise SecretError(f"environment variable {self.env} is not set; export {self.env}=… and run again.")
            return os.environ[self.env]
        try:
            if self.file is not None:
                return Path(self.file).expanduser().read_text()
            if (said := _output_of(tuple(self.command or []))) is None:
                raise SecretError(f"{self.source()} has not ended within {PATIENCE // 60} min.")
            return said
        except subprocess.CalledProcessError as error:
            printed = (error.stderr or "").strip().splitlines()
            last = f": {printed[-1].strip().rstrip('.')}" if printed else ""
            raise SecretError(
                f"{self.source()} ended with exit code {error.returncode}{last}. Run it by hand first."
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            verb = "run" if self.command and isinstance(error, OSError) else "read"
            raise SecretError(f"{self.source()} cannot be {verb}: {getattr(error, 'strerror', error)}.") from None


@once
def _output_of(command: tuple[str, ...]) -> str | None:
    """Once per run: a password manager may ask its user. None if it does not end."""
    begun = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while True:
            try:
                said, wrong = process.communicate(timeout=min(SIGN_OF_LIFE, PATIENCE))
                break
            except subprocess.TimeoutExpired:
                spent = time.monotonic() - begun
            if spent >= PATIENCE:
                process.kill()
                return None
            named = " ".join(command)[:NAMED]
            screen.echo(f"waiting for the command of a secret: {named}, {screen.duration(spent)}", err=True)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=wrong)
    return said


@dataclass(frozen=True)
class Values:
    """The values of a host's secrets.

    entries: container → name → value, as of read_secrets. hf_token: of Hugging Face. logins: of registries.
    """

    entries: Mapping[str, Mapping[str, str]] = field(repr=False)
    hf_token: str | None = field(repr=False)
    logins: Mapping[str, Mapping[str, str]] = field(repr=False)


NO_VALUES = Values({}, None, {})
