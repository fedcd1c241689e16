"""Weights as the inventory names them: a path on the host, a URL, a hub's repository, a copy of the admin's."""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator

from gpurack.spec import local_files
from gpurack.spec.fields import Like, Repository, Revision, Strict

SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
"""The end of the name of a part of a split GGUF; llama.cpp is told the first, and finds the others beside it."""
RepositoryFile = Annotated[
    str,
    Like(r"(?!.*\.\.)[^/\s][^\\\n]*", "is not the path of a file in the repository."),
]


class _HubWeights(Strict):
    """What the repositories of all hubs have in common. file: one GGUF file of it, for engines that read one; of a
    split one any part."""

    hub: ClassVar[Literal["hf", "modelscope"]]
    """The hub, and the field that names the repository."""
    branch: ClassVar[str]
    """What a repository of the hub usually calls its branch."""

    revision: Revision | None = None
    file: RepositoryFile | None = None

    @property
    def repository(self) -> str:
        """owner/name."""
        return str(getattr(self, self.hub))

    @property
    def wanted_revision(self) -> str:
        """The revision, or the hub's usual branch."""
        return self.revision or self.branch

    @property
    def whole(self) -> str:
        """The folder below weights_dir that is put in its place when it is complete."""
        name = f"{self.hub}/{self.repository.replace('/', '--')}@{self.wanted_revision.replace('/', '--')}"
        if self.file is None:
            return name
        chosen = SPLIT.sub("", self.file).removesuffix(".gguf").replace("/", "--")
        return f"{name}--{re.sub(r'[^A-Za-z0-9._-]', '_', chosen)}"

    @property
    def place(self) -> str:
        """Where an engine finds it below weights_dir: the folder, or the file in it."""
        return f"{self.whole}/{self.file}" if self.file else self.whole

    def __str__(self) -> str:
        return self.file or self.repository


class UrlWeights(Strict):
    """A file fetched onto the host. sha256: 64 hex digits; nothing unverified is ever put in place."""

    url: Annotated[str, Like(r"https?://.+", "is not an http:// or https:// URL.")]
    sha256: Annotated[str, Like(r"[0-9a-f]{64}", "is not a sha256: 64 digits of 0-9 and a-f, as sha256sum prints it.")]

    @field_validator("url")
    @classmethod
    def _has_no_login(cls, value: str) -> str:
        if "@" in value.split("/")[2]:  # not repeated: it may hold a password
            raise ValueError(
                "credentials do not belong in an inventory, and would show in every error about this file; let its "
                'server know the hosts by address, or bring the file from here: {"copy": "/…/model.gguf"}.'
            )
        return value

    @property
    def filename(self) -> str:
        """The last part of the URL's path, for people; the sha256 in front of it makes it unique."""
        name = self.url.split("?", 1)[0].split("#", 1)[0].rstrip("/").rsplit("/", 1)[-1]
        return re.sub(r"[^A-Za-z0-9._-]", "_", name)

    @property
    def place(self) -> str:
        """Where it lies below weights_dir: named by its hash, so two models with the same weights share the file."""
        return f"{self.sha256[:16]}-{self.filename}"

    @property
    def whole(self) -> str:
        """What is put in its place when it is complete."""
        return self.place


class HfWeights(_HubWeights):
    """A repository of the Hugging Face Hub: what serving needs of it is fetched onto the host, as a folder.

    revision: a commit, a tag or a branch; a commit (40 hex digits) pins it. A branch is looked up once and not
    followed: later runs leave the folder as it is. file: one GGUF file of the repository, for llama.cpp and
    llama-cpp-python; of a split one the first part, the others come along.
    """

    hub = "hf"
    branch = "main"

    hf: Repository


class ModelScopeWeights(_HubWeights):
    """A public repository of ModelScope. revision and file as for the Hub."""

    hub = "modelscope"
    branch = "master"

    modelscope: Repository


class CopyWeights(Strict):
    """A file or folder copied from the admin's machine; a changed one is another one, and copied again. Of a split GGUF
    the first part is named, the others come along."""

    copy_: Annotated[str, Field(alias="copy", min_length=1)]

    @property
    def source(self) -> Path:
        """Where it is on the admin's machine."""
        return Path(self.copy_).expanduser().absolute()

    @property
    def whole(self) -> str:
        """Its file or folder below weights_dir, named by its content. Raises OSError."""
        name = re.sub(r"[^A-Za-z0-9._-]", "_", SPLIT.sub("", self.source.name))
        return f"copy/{local_files.content(self.source)[:16]}-{name}"

    @property
    def place(self) -> str:
        """Where an engine finds it below weights_dir: of a split GGUF the part that is named. Raises OSError."""
        return f"{self.whole}/{self.source.name}" if SPLIT.search(self.source.name) else self.whole

    def __str__(self) -> str:
        return self.copy_


_WEIGHTS: dict[str, type[Strict]] = {
    "url": UrlWeights,
    "hf": HfWeights,
    "modelscope": ModelScopeWeights,
    "copy": CopyWeights,
}


def _weights_kind(value: Any) -> Any:
    kinds = '{"hf": …}, {"modelscope": …}, {"url": …, "sha256": …} or {"copy": …}'
    if isinstance(value, str):
        if value.startswith("/"):
            return value
        hint = f' {{"hf": "{value}"}} for the Hub,' if re.fullmatch(r"[\w.-]+/[\w.-]+", value) else ""
        raise ValueError(f'"{value}" is not a path on the host; write{hint} an absolute path or {kinds}.')
    if not isinstance(value, dict | Strict):
        raise ValueError(f"{value!r} are no weights; write a path on the host or {kinds}.")
    if isinstance(value, dict) and not {*_WEIGHTS, "sha256"} & set(value):
        raise ValueError(f"weights of kind {sorted(value)} are not known; write a path on the host or {kinds}.")
    if isinstance(value, dict) and len(places := sorted(_WEIGHTS.keys() & value.keys())) > 1:
        raise ValueError(f"weights come from one place, not {' and '.join(places)}; keep one of them.")
    return value


def _tag_of_weights(value: Any) -> str:
    if isinstance(value, dict):
        return next((_WEIGHTS[key] for key in _WEIGHTS if key in value), UrlWeights).__name__
    return "Path" if isinstance(value, str) else type(value).__name__


# The branch is chosen by the field that names the kind, so that only its errors are reported.
Weights = Annotated[
    Annotated[str, Tag("Path")]
    | Annotated[UrlWeights, Tag("UrlWeights")]
    | Annotated[HfWeights, Tag("HfWeights")]
    | Annotated[ModelScopeWeights, Tag("ModelScopeWeights")]
    | Annotated[CopyWeights, Tag("CopyWeights")],
    Discriminator(_tag_of_weights),
    BeforeValidator(_weights_kind),
]


def belongs(file: str, path: str) -> bool:
    """Is a file one of those that weights at a path consist of?

    >>> belongs("/w/m-00002-of-00002.gguf", "/w/m-00001-of-00002.gguf")
    True
    >>> belongs("/w/m/a", "/w/m"), belongs("/w/mm", "/w/m")
    (True, False)
    """
    one, other = (re.sub(r"-\d{5}(-of-\d{5}\.gguf)$", r"\1", each) for each in (file, path))
    return one == other or file.startswith(f"{path}/")
