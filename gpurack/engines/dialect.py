"""How users start an engine by hand, so that `gpurack import` can read a `docker run` command of it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from gpurack.spec.model import ArgValue

HUB_CACHE = "gpurack fetches weights itself, once for all models of the host (weights_dir)"
OWN_VOLUME = "gpurack keeps this in a volume of its own, which starts empty"
CONNECTS_TO = "connects_to"
CONTEXT = "context"
NODES = "nnodes"
"""The flag of engines that run over several hosts, for their number."""
SWITCHES = frozenset({
    "trust-remote-code", "enforce-eager", "enable-prefix-caching", "enable-chunked-prefill", "enable-auto-tool-choice",
    "disable-log-requests", "disable-log-stats", "enable-lora", "headless", "metrics", "mlock", "no-mmap", "jinja",
    "embedding", "embeddings", "reranking", "rerank", "cont-batching", "verbose", "no-webui", "auto-truncate",
})  # fmt: skip
"""Flags that take no value in any engine, so that the next word is not their value."""


@dataclass(frozen=True)
class ConfiguredUpstream:
    """A model in a gateway's configuration. url: "" for a provider's own. key: the variable with its key, or ""."""

    name: str
    url: str
    key: str


@dataclass(frozen=True)
class Dialect:
    """How users start an engine by hand.

    images: pattern for the end of the image's name, without tag. moved: an image's former name → its name today.
    known_by: flags that identify the engine in an unknown image, beside `model`.

    programs: the words with which its command may begin, before the flags. positional: may its first word be the
    weights? short: short and old flags → the long flag of today. one_dash: flags of several letters with one dash.
    switches: flags that never take a value, in addition to SWITCHES. paired: is each flag with a `--no-` twin a switch
    (argparse.BooleanOptionalAction)? several: flags that take several words.
    keeps_spelling: does its parser distinguish dashes from underscores, so that `args` must keep the flag as it was
    written?

    variables: environment variables → the flag with the same meaning (CONTEXT, CONNECTS_TO: the field), or a text with
    a space that says why the variable is left out. modelscope: the variable that makes it fetch weights from
    ModelScope. caches: paths inside of data that can be fetched again → what happens to it. pulls: commands that
    precede the name of a model to pull. first_account: the variables for name and password of the only one in `keys`.

    repositories: flags that name a repository of the hub; repository_file names a file of it. default_file: the file
    without that flag, in words. url: the flag that names the weights by a URL. pull_path: the path of the request that
    makes it pull a model. ends: subcommands of its program that end.

    multipliers: the letters behind a number of tokens → what they multiply it with. hub: flags that may name further
    repositories of the hub, which the engine would fetch itself.

    named_by_weights: without a name, does it answer to the path or repository that it loaded? share: the flag for its
    share of each GPU, which is the field vram. assumed: flags that gpurack sets on GPUs if the command does not → what
    they do. renamed: flags that have another name today. replacements: a removed flag → its value → the flags that
    replace it.
    """

    images: str = ""
    moved: Mapping[str, str] = field(default_factory=dict)
    known_by: Collection[str] = ()

    programs: tuple[tuple[str, ...], ...] = ()
    positional: bool = False
    short: Mapping[str, str] = field(default_factory=dict)
    one_dash: Collection[str] = ()
    switches: Collection[str] = ()
    paired: bool = False
    several: Collection[str] = ()
    keeps_spelling: bool = False

    variables: Mapping[str, str] = field(default_factory=dict)
    modelscope: str = ""
    caches: Mapping[str, str] = field(default_factory=dict)
    pulls: tuple[tuple[str, ...], ...] = ()
    first_account: tuple[str, ...] = ()

    repositories: Collection[str] = ()
    repository_file: str = ""
    default_file: str = ""
    url: str = ""
    pull_path: str = ""
    ends: Collection[tuple[str, str]] = ()

    multipliers: Mapping[str, int] = field(default_factory=dict)
    hub: Collection[str] = ()

    named_by_weights: bool = False
    share: str = ""
    assumed: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    replacements: Mapping[str, Mapping[str, Mapping[str, ArgValue]]] = field(default_factory=dict)


def python(*words: str) -> tuple[tuple[str, ...], ...]:
    """Return a Python module as a program, by both names of Python.

    >>> python("a.b")
    (('python3', '-m', 'a.b'), ('python', '-m', 'a.b'))
    """
    return tuple((name, "-m", *words) for name in ("python3", "python"))
