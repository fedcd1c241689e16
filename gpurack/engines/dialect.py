"""How an engine is started by hand, for `gpurack import` to read a `docker run` of it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from gpurack.spec.model import ArgValue

HUB_CACHE = "gpurack fetches weights itself, once for all models of the host (weights_dir)"
OWN_VOLUME = "gpurack keeps this in a volume of its own, which starts empty"
CONNECTS_TO = "connects_to"
CONTEXT = "context"
SWITCHES = frozenset({
    "trust-remote-code", "enforce-eager", "enable-prefix-caching", "enable-chunked-prefill", "enable-auto-tool-choice",
    "disable-log-requests", "disable-log-stats", "enable-lora", "headless", "metrics", "mlock", "no-mmap", "jinja",
    "embedding", "embeddings", "reranking", "rerank", "cont-batching", "verbose", "no-webui", "auto-truncate",
})  # fmt: skip
"""Flags without a value in every engine, so that the next word is not their value."""


@dataclass(frozen=True)
class Dialect:
    """How an engine is started by hand.

    images: pattern of the end of an image's name (no tag) that holds it. moved: an image's former name → today's.
    known_by: flags by which an unknown image is taken for it.

    programs: what its command may begin with, before the flags. positional: may its first word be the weights?
    short: short and old flags → the long one of today. one_dash: flags of several letters with one dash. switches:
    those that never take a value, beside SWITCHES. keeps_spelling: does its parser tell dashes from underscores, so
    that `args` must have the flag as it was written?

    variables: environment variables → the flag that means the same (CONTEXT, CONNECTS_TO: the field), or a sentence (it
    contains a space) why the variable is left out. modelscope: the one that has it fetch weights from ModelScope.
    caches: places inside where it keeps what can be had again → what becomes of them. pulls: commands before the name
    of a model that it is to pull.

    named_by_weights: without a name it answers by what it was told to load. share: the flag for its share of each
    GPU, which is the field vram. assumed: flags that gpurack sets on GPUs where nothing was said → what it does.
    renamed: flags that only have another name today. retold: a flag that is no more, and its value → the flags that say
    the same.
    """

    images: str = ""
    moved: Mapping[str, str] = field(default_factory=dict)
    known_by: Collection[str] = ()

    programs: tuple[tuple[str, ...], ...] = ()
    positional: bool = False
    short: Mapping[str, str] = field(default_factory=dict)
    one_dash: Collection[str] = ()
    switches: Collection[str] = ()
    keeps_spelling: bool = False

    variables: Mapping[str, str] = field(default_factory=dict)
    modelscope: str = ""
    caches: Mapping[str, str] = field(default_factory=dict)
    pulls: tuple[tuple[str, ...], ...] = ()

    named_by_weights: bool = False
    share: str = ""
    assumed: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    retold: Mapping[str, Mapping[str, Mapping[str, ArgValue]]] = field(default_factory=dict)


def python(*words: str) -> tuple[tuple[str, ...], ...]:
    """A program that is a module of Python's, as both names of Python start it.

    >>> python("a.b")
    (('python3', '-m', 'a.b'), ('python', '-m', 'a.b'))
    """
    return tuple((name, "-m", *words) for name in ("python3", "python"))
