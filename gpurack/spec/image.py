"""Images as the inventory names them: by name, from a tar of the admin's machine, built on the host."""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator

from gpurack.spec import image_tar
from gpurack.spec.fields import Like, Revision, Strict, text_values
from gpurack.spec.image_ref import ImageRef


class Build(Strict):
    """An image built on the host, once for each definition, while the old one serves."""

    git: Annotated[
        str,
        Like(
            r"(https?|ssh|git|file)://[^\s-]\S*|[\w.-]+@[\w.-]+:\S+",
            "is no address of a git repository; write https://…, ssh://… or git@host:….",
        ),
    ] = Field(description="the address of the repository, as `git clone` takes it on the host")
    revision: Revision = Field(description="a commit, a tag or a branch; a branch is not followed after the build")
    dockerfile: Annotated[str, Like(r"[^/\s-]\S*", "is not the path of a file in the repository.")] = Field(
        "Dockerfile", description="its path in the repository, whose root is the build's context"
    )
    target: Annotated[str, Like(r"[A-Za-z0-9][A-Za-z0-9._-]*", "is not the name of a stage.")] | None = Field(
        None, description="the stage to build, where the Dockerfile has several; default: its last"
    )
    args: dict[str, str] = Field({}, description="build arguments; never for secrets, they stay in the image")

    @field_validator("git")
    @classmethod
    def _git_has_no_password(cls, value: str) -> str:
        if re.match(r"\w+://[^/@]*:[^/@]*@", value):
            raise ValueError("holds a password, which does not belong in an inventory; let the host's own git know it.")
        return value

    @field_validator("args", mode="before")
    @classmethod
    def _args_are_text(cls, value: Any) -> Any:
        return text_values(value, "build arguments")


class TarImage(Strict):
    """An image of the admin's machine (`docker save`, `gpurack image save`): copied, loaded, known by its id."""

    tar: str = Field(min_length=1, description="the tar file's path on the admin's machine; it may be compressed")

    @property
    def source(self) -> Path:
        """Where it is on the admin's machine."""
        return Path(self.tar).expanduser().absolute()

    @property
    def reference(self) -> str:
        """The name by which hosts know it, which changes with the image's id. Raises OSError and ValueError."""
        name = re.sub(r"[^a-z0-9]+", "-", self.source.name.split(".")[0].lower()).strip("-") or "image"
        return f"gpurack.local/{name}:{image_tar.read(self.source).id[:12]}"


class BuildImage(Strict):
    """An image built on the host."""

    build: Build

    @property
    def reference(self) -> str:
        """The name by which the host knows it, which changes with its definition."""
        name = re.sub(r"[^a-z0-9]+", "-", self.build.git.lower().removesuffix(".git").rpartition("/")[2]).strip("-")
        definition = json.dumps(self.build.model_dump(), sort_keys=True)
        return f"gpurack.local/{name or 'image'}:{hashlib.sha256(definition.encode()).hexdigest()[:12]}"


def _image_kind(value: Any) -> Any:
    if isinstance(value, str):
        try:
            ImageRef.parse(value)
        except ValueError:
            what = f'"{value}" is no image; name it as docker pull takes it, "ghcr.io/lab/llama:1.2".'
            raise ValueError(what) from None
    if not isinstance(value, str | dict | Strict):
        raise ValueError(f'{value!r} is no image; write a name, {{"tar": …}} or {{"build": …}}.')
    if isinstance(value, dict) and not {"tar", "build"} & set(value):
        raise ValueError(
            f'an image of kind {sorted(value)} is not known; write a name, {{"tar": …}} or {{"build": …}}.'
        )
    return value


def _tag_of_image(value: Any) -> str:
    if isinstance(value, dict):
        return "TarImage" if "tar" in value else "BuildImage"
    return "Name" if isinstance(value, str) else type(value).__name__


Image = Annotated[
    Annotated[str, Tag("Name")] | Annotated[TarImage, Tag("TarImage")] | Annotated[BuildImage, Tag("BuildImage")],
    Discriminator(_tag_of_image),
    BeforeValidator(_image_kind),
]
