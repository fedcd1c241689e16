"""Weights in the inventory: a path on the host, a URL, a hub's repository, or a local copy."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator

from gpurack.spec import local_files
from gpurack.spec.fields import Like, Repository, Revision, Strict
from gpurack.spec.problems import Wrong

SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
"""The end of the name of a part of a split GGUF. llama.cpp gets the first, and finds the others beside it."""
RepositoryFile = Annotated[
    str,
    Like(r"(?!.*\.\.)[^/\s][^\\\n]*", "invalid-repository-file"),
]


class _HubWeights(Strict):
    """Common fields of all hubs. file: one GGUF file, for engines that read one; any part of a split one."""

    hub: ClassVar[Literal["hf", "modelscope"]]
    """The hub, and the field that names the repository."""
    branch: ClassVar[str]
    """The usual name of a repository's branch."""

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
        """Its folder below weights_dir, which appears there when it is complete."""
        name = f"{self.hub}/{self.repository.replace('/', '--')}@{self.wanted_revision.replace('/', '--')}"
        if self.file is None:
            return name
        chosen = SPLIT.sub("", self.file).removesuffix(".gguf").replace("/", "--")
        return f"{name}--{re.sub(r'[^A-Za-z0-9._-]', '_', chosen)}"

    @property
    def place(self) -> str:
        """The path for the engine below weights_dir: the folder, or the file in it."""
        return f"{self.whole}/{self.file}" if self.file else self.whole

    def __str__(self) -> str:
        return self.file or self.repository


class UrlWeights(Strict):
    """A file fetched to the host. sha256: 64 hex digits; an unverified file is never used."""

    url: Annotated[str, Like(r"https?://.+", "invalid-url")]
    sha256: Annotated[str, Like(r"[0-9a-f]{64}", "invalid-sha256")]

    @field_validator("url")
    @classmethod
    def _has_no_login(cls, value: str) -> str:
        if "@" in value.split("/")[2]:  # not repeated: it may hold a password
            raise Wrong("url-with-login")
        return value

    @property
    def filename(self) -> str:
        """The last part of the URL's path; it is for readers, the sha256 in front of it makes the name unique."""
        name = self.url.split("?", 1)[0].split("#", 1)[0].rstrip("/").rsplit("/", 1)[-1]
        return re.sub(r"[^A-Za-z0-9._-]", "_", name)

    @property
    def place(self) -> str:
        """Its path below weights_dir, named by its hash: two models with the same weights share the file."""
        return f"{self.sha256[:16]}-{self.filename}"

    @property
    def whole(self) -> str:
        """Its path below weights_dir."""
        return self.place


class HfWeights(_HubWeights):
    """A repository of the Hugging Face Hub.

    The files needed for serving are fetched to the host, as a folder.

    revision: a commit, a tag or a branch; a commit (40 hex digits) pins it. A branch is resolved once: later runs leave
    the folder unchanged. file: one GGUF file of the repository, for llama.cpp and llama-cpp-python. For a split one,
    name the first part; the others are fetched with it.
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
    """A file or folder copied from the admin's machine, and copied again when it changes.

    For a split GGUF, name the first part; the others are copied with it.
    """

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
        """The path for the engine below weights_dir; the named part of a split GGUF. Raises OSError."""
        return f"{self.whole}/{self.source.name}" if SPLIT.search(self.source.name) else self.whole

    def __str__(self) -> str:
        return self.copy_


_WEIGHTS: dict[str, type[Strict]] = {
    "url": UrlWeights,
    "hf": HfWeights,
    "modelscope": ModelScopeWeights,
    "copy": CopyWeights,
}


HUB = r"(?:huggingface\.co|hf\.co)"
REPOSITORY = r"[\w.-]+/[\w.-]+"
TYPOGRAPHIC = "“”„‟‘’‚«»"
"""Quotes of word processors, which neither YAML nor Python takes for quotes."""


def source_hint(value: str) -> str:
    """What to write in place of a text that is not a path on the host.

    >>> source_hint("https://huggingface.co/a/b/resolve/main/m.gguf?download=true")
    'Write {"hf": "a/b", "revision": "main", "file": "m.gguf"}.'
    >>> source_hint("https://huggingface.co/a/b")
    'Write {"hf": "a/b"}.'
    >>> source_hint("hf:BAAI/bge-m3"), source_hint("“/w/a.gguf”")
    ('Write {"hf": "BAAI/bge-m3"}.', 'Write it with straight quotes: "/w/a.gguf".')
    >>> source_hint("~/m.gguf")
    'Write "/home/USER/m.gguf" for a file on the host, or {"copy": "~/m.gguf"} for one on this machine.'
    """
    if hub := re.match(rf"https?://{HUB}/({REPOSITORY})(?:/(?:resolve|blob|tree)/([\w.-]+)(?:/([^?]+))?)?", value):
        words = {"hf": hub[1], "revision": hub[2], "file": hub[3]}
        return f"Write {json.dumps({key: word for key, word in words.items() if word})}."
    if re.match(r"https?://", value):
        return f'Write {{"url": "{value}", "sha256": "…"}}, or {{"hf": …}} for the Hub.'
    if kind := re.fullmatch(rf"(hf|modelscope):(?://)?({REPOSITORY})", value):
        return f'Write {{"{kind[1]}": "{kind[2]}"}}.'
    if value.strip(TYPOGRAPHIC) != value:
        return f'Write it with straight quotes: "{value.strip(TYPOGRAPHIC)}".'
    if variable := re.match(r"\$\{?(\w+)\}?", value):
        return f"Variables such as {variable[0]} are not filled in. Write an absolute path on the host."
    if value.startswith("~"):
        there = f"/home/USER/{value.partition('/')[2]}"
        return f'Write "{there}" for a file on the host, or {{"copy": "{value}"}} for one on this machine.'
    if local := re.match(r"file://(?=/)", value):
        return f'Write "{value[local.end() :]}".'
    repository = re.fullmatch(REPOSITORY, value) and value[0] != "."
    hub_first = f'{{"hf": "{value}"}} for the Hub, ' if repository else ""
    others = '{"hf": …}, {"modelscope": …}, {"url": …, "sha256": …} or {"copy": …}'
    return f"Write {hub_first}an absolute path or {others}."


def _weights_kind(value: Any) -> Any:
    if isinstance(value, str):
        if value.startswith("/"):
            return value
        raise Wrong("weights-path-relative", value=value, hint=source_hint(value))
    if not isinstance(value, dict | Strict):
        raise Wrong("invalid-weights", value=repr(value))
    if isinstance(value, dict) and not {*_WEIGHTS, "sha256"} & set(value):
        raise Wrong("unknown-weights-source", kinds=", ".join(sorted(map(str, value))))
    if isinstance(value, dict) and len(places := sorted(_WEIGHTS.keys() & value.keys())) > 1:
        raise Wrong("several-weights-sources", kinds=" and ".join(places))
    return value


def _tag_of_weights(value: Any) -> str:
    if isinstance(value, dict):
        return next((_WEIGHTS[key] for key in _WEIGHTS if key in value), UrlWeights).__name__
    return "Path" if isinstance(value, str) else type(value).__name__


# The field that names the source chooses the branch, so that only its errors are reported.
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
    """Is a file part of the weights at a path?

    >>> belongs("/w/m-00002-of-00002.gguf", "/w/m-00001-of-00002.gguf")
    True
    >>> belongs("/w/m/a", "/w/m"), belongs("/w/mm", "/w/m")
    (True, False)
    """
    one, other = (re.sub(r"-\d{5}(-of-\d{5}\.gguf)$", r"\1", each) for each in (file, path))
    return one == other or file.startswith(f"{path}/")
