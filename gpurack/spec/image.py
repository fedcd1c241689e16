"""Images in the inventory: by name, from a tar file on the admin's machine, or built on the host."""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator

from gpurack.spec import image_tar
from gpurack.spec.fields import Like, Revision, Strict, text_values
from gpurack.spec.image_ref import ImageRef
from gpurack.spec.problems import Wrong


class Build(Strict):
    """An image built on the host, once per definition, while the old container serves."""

    git: Annotated[
        str,
        Like(
            r"(https?|ssh|git|file)://[^\s-]\S*|[\w.-]+@[\w.-]+:\S+",
            "invalid-git-address",
        ),
    ] = Field(description="the address of the repository, as for `git clone` on the host")
    revision: Revision = Field(description="a commit, a tag or a branch; later commits of a branch start no new build")
    dockerfile: Annotated[str, Like(r"[^/\s-]\S*", "invalid-repository-file")] = Field(
        "Dockerfile", description="its path in the repository; the root of the repository is the build context"
    )
    target: Annotated[str, Like(r"[A-Za-z0-9][A-Za-z0-9._-]*", "invalid-stage")] | None = Field(
        None, description="the stage to build, if the Dockerfile has several; default: the last"
    )
    args: dict[str, str] = Field({}, description="build arguments; never for secrets, because they stay in the image")

    @field_validator("git")
    @classmethod
    def _git_has_no_password(cls, value: str) -> str:
        if re.match(r"\w+://[^/@]*:[^/@]*@", value):
            raise Wrong("git-with-password")
        return value

    @field_validator("args", mode="before")
    @classmethod
    def _args_are_text(cls, value: Any) -> Any:
        return text_values(value, "build arguments")


class TarImage(Strict):
    """A tar file on the admin's machine (`docker save`, `gpurack image save`), loaded on the host."""

    tar: str = Field(min_length=1, description="the tar file's path on the admin's machine; it may be compressed")

    @property
    def source(self) -> Path:
        """Its path on the admin's machine."""
        return Path(self.tar).expanduser().absolute()

    @property
    def reference(self) -> str:
        """Its name on hosts, which changes with the image's id. Raises OSError and ValueError."""
        name = re.sub(r"[^a-z0-9]+", "-", self.source.name.split(".")[0].lower()).strip("-") or "image"
        return f"gpurack.local/{name}:{image_tar.read(self.source).id[:12]}"


class BuildImage(Strict):
    """An image built on the host."""

    build: Build

    @property
    def reference(self) -> str:
        """Its name on the host, which changes with its definition."""
        name = re.sub(r"[^a-z0-9]+", "-", self.build.git.lower().removesuffix(".git").rpartition("/")[2]).strip("-")
        definition = json.dumps(self.build.model_dump(), sort_keys=True)
        return f"gpurack.local/{name or 'image'}:{hashlib.sha256(definition.encode()).hexdigest()[:12]}"


def _image_kind(value: Any) -> Any:
    if isinstance(value, str):
        try:
            ImageRef.parse(value)
        except ValueError:
            raise Wrong("invalid-image", value=value) from None
    if not isinstance(value, str | dict | Strict):
        raise Wrong("invalid-image-form", value=repr(value))
    if isinstance(value, dict) and not {"tar", "build"} & set(value):
        raise Wrong("invalid-image-form", value=f"a map with {', '.join(sorted(map(str, value)))}")
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
