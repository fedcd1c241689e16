"""Errors and warnings of inventories and hosts: where, what is wrong, what to do."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from pyinfra.api.exceptions import PyinfraError

from gpurack.spec.error_codes import CODES

ENTRIES = ("models", "services", "jobs")
"""The maps of an inventory whose keys name entries of a host."""


@dataclass(frozen=True, order=True)
class Problem:
    """One error or warning of an inventory, or of what was found on a host.

    host: its name in the inventory, "" for the inventory as a whole and where only one host is spoken of. path: dotted,
    as in `models.bge-m3.port`; what a host says of an entry has the entry's path, `models.bge-m3`. code: stable, one of
    spec/error_codes.py. parameters: what its sentences are made of, name and text.
    """

    host: str
    path: str
    code: str
    parameters: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, code: str, host: str = "", path: str = "", **parameters: object) -> "Problem":
        """A problem of a kind in spec/error_codes.py.

        Raises KeyError for an unknown code or a missing parameter.

        >>> print(Problem.of("port-used-twice", "gpu1", "models.a.port", port=8000, one="a", other="b", free=8001))
        gpu1 models.a.port: port 8000 is used by both `a` and `b`. Change one of them, for example to 8001.
        """
        texts = {name: str(value) for name, value in parameters.items()}
        CODES[code].text(texts)
        return cls(host, path, code, tuple(sorted(texts.items())))

    @classmethod
    def unknown(cls, code: str, name: object, known: Sequence[str], host: str = "", path: str = "") -> "Problem":
        """A problem of one of the codes `unknown-…`: a name that is not one of `known`.

        >>> print(Problem.unknown("unknown-engine", "llamacpp", ["llama.cpp"]))
        unknown engine "llamacpp". Did you mean "llama.cpp"?
        """
        hint = belongs(str(name), known) if code == "unknown-field" else ""
        return cls.of(code, host, path, name=name, hint=hint or suggestion(name, known))

    def at(self, host: str, prefix: str = "") -> "Problem":
        """The same problem on a host, its path below `prefix`."""
        return replace(self, host=host, path=".".join(part for part in (prefix, self.path) if part))

    @property
    def what(self) -> str:
        """Message and hint in one text."""
        return CODES[self.code].text(dict(self.parameters))

    @property
    def hint(self) -> str:
        """What to do; "" where the code has none."""
        return CODES[self.code].hint.format_map(dict(self.parameters))

    @property
    def message(self) -> str:
        """What is wrong."""
        return CODES[self.code].message.format_map(dict(self.parameters))

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        sentences = {"code": self.code, "message": self.message, "hint": self.hint, "parameters": dict(self.parameters)}
        return {"host": self.host, "path": self.path, "what": self.what, **sentences}

    def __str__(self) -> str:
        where = " ".join(part for part in (self.host, self.path) if part)
        return f"{where}: {self.what}" if where else self.what


def by_fault(problems: Iterable[Problem]) -> list[tuple[Problem, ...]]:
    """Problems that are one fault together, each place once: those with the same code and sentences."""
    faults: dict[tuple[str, str], dict[tuple[str, str], Problem]] = {}
    for problem in problems:
        faults.setdefault((problem.code, problem.what), {})[problem.host, problem.path] = problem
    return [tuple(places.values()) for places in faults.values()]


def line_of(fault: Sequence[Problem]) -> str:
    """One line for one fault, with all its places. Where no host is named, an entry is named by its key alone."""
    first = fault[0]
    if not any(problem.host for problem in fault):
        places = ", ".join(filter(None, (_short(problem.path) for problem in fault)))
        return f"{places}: {first.what}" if places else first.what
    if len(fault) == 1:
        return str(first)
    where = " · ".join(places_of(fault))
    if first.message.startswith(PREDICATES):
        return f"{where}: {first.what}"
    return f"{first.message.rstrip('.')}: {where}" + (f". {first.hint}" if first.hint else "")


PREDICATES = ("is ", "has ", "must ", "needs ", "contains ", "holds ", "wants ")
"""How sentences begin whose subject is the place in front of them."""


def places_of(fault: Sequence[Problem], colon: bool = False) -> list[str]:
    """Where one fault is, for each host; hosts on which it is at the same entries share one text.

    colon: also after the name of a single host.

    >>> places_of([Problem(host, "models.x", "no-key") for host in ("a", "b")] + [Problem("c", "models.y", "no-key")])
    ['a, b: x', 'c y']
    """
    hosts: dict[str, list[str]] = {}
    for problem in fault:
        hosts.setdefault(problem.host, []).append(_short(problem.path))
    alike: dict[tuple[str, ...], list[str]] = {}
    for host, names in hosts.items():
        alike.setdefault(tuple(filter(None, names)), []).append(host)
    return [
        f"{', '.join(found)}{':' if names and (colon or len(found) > 1) else ''} {', '.join(names)}".strip()
        for names, found in alike.items()
    ]


def _short(path: str) -> str:
    kind, _, rest = path.partition(".")
    return rest if kind in ENTRIES else path


def grouped(problems: Iterable[Problem]) -> list[str]:
    """One line for each fault: a lab of forty models has few kinds of faults.

    >>> grouped([Problem("a", "models.x", "nothing-to-connect-to"), Problem("b", "models.y", "nothing-to-connect-to")])
    ['connects to no enabled model that it can reach: a x · b y. Check `enabled`, and `bind` of models on other hosts.']
    >>> grouped([Problem("", "models.x", "empty-value"), Problem("", "jobs.y", "empty-value")])
    ['x, y: is empty.']
    """
    return [line_of(fault) for fault in by_fault(problems)]


class Wrong(ValueError):
    """An invalid value of a field: `raise Wrong("secret-in-inventory")`. Codes: spec/error_codes.py."""

    def __init__(self, code: str, **parameters: object) -> None:
        self.code, self.parameters = code, {name: str(value) for name, value in parameters.items()}
        super().__init__(CODES[code].text(self.parameters))


class Refused(LookupError):
    """What the inventory asks for cannot be had on a host: `raise Refused(Problem.of("gpu-reserved", gpu=3))`."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.what)


class InventoryError(PyinfraError):
    """The inventory has errors. Nothing was done on any host.

    problems: each once, sorted. lines: the same for reading, equal faults grouped. It is a PyinfraError, so that the
    pyinfra command prints it without a traceback and exits with 1.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(set(problems))
        self.lines = grouped(self.problems)
        count = f"{len(self.lines)} error" + ("s" if len(self.lines) != 1 else "")
        head = f"{count} in the inventory; nothing was done on any host"
        super().__init__("\n".join([head, *(f"    error  {line}" for line in self.lines)]))


class NotAsked(InventoryError):
    """A command names something that the inventory or its lock does not have.

    The inventory itself may be right.
    """


def nearest(word: object, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word that was probably meant, or None. cutoff: how alike they must be (difflib's ratio).

    >>> nearest("wieghts", ["weights", "gpus"])
    'weights'
    """
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=cutoff)
    return close[0] if close else None


def suggestion(word: object, known: Sequence[str]) -> str:
    """The hint for a word that is not one of `known`; "" where nothing is known.

    >>> suggestion("llamacpp", ["llama.cpp"]), suggestion("triton", ["vllm", "tei"])
    ('Did you mean "llama.cpp"?', 'Known: tei, vllm.')
    """
    guess = nearest(word, known) or nearest(str(word).lower(), known)
    return f'Did you mean "{guess}"?' if guess else f"Known: {', '.join(sorted(known))}." if known else ""


def limit_hint(pattern: str, hosts: Sequence[str]) -> str:
    """The hint for a `--limit` that matches none of the hosts.

    >>> limit_hint("gpu1.lab/bge-m3", ["gpu1.lab"]), limit_hint("a,b", ["a", "b"]), limit_hint("GPU1", ["gpu1.lab"])
    ('It takes hosts: `--limit gpu1.lab`.', 'Write `--limit a --limit b`.', 'Did you mean `gpu1.lab`?')
    """
    if pattern == "all":
        return "Leave it out: without --limit, all hosts are meant."
    host, words = pattern.rpartition("/")[0], [word.strip() for word in pattern.split(",")]
    if host in hosts:
        return f"It takes hosts: `--limit {host}`."
    if len(words) > 1 and set(words) <= set(hosts):
        return f"Write `{' '.join(f'--limit {word}' for word in words)}`."
    for known in hosts:
        if pattern.lower() in (known.lower(), known.lower().partition(".")[0]):
            return f"Did you mean `{known}`?"
    return f"Hosts: {', '.join(hosts)}."


MEANT = {
    ("model", "model_path", "path", "file"): ("weights", "Its files are `weights`; the key of the entry is its name."),
    ("name", "container_name", "model_name", "alias"): (
        "served_name", "The key of the entry is its name; `served_name` is another name for clients."
    ),
    ("environment", "environ"): ("env", 'Write `env: {"KEY": "value"}`.'),
    ("command", "cmd", "flags", "extra_args"): ("args", 'Flags of the engine belong in `args`: {"threads": 16}.'),
    ("ports", "host_port"): ("port", "Write `port: 8000`, the port on the host."),
    ("devices", "device", "runtime", "device_requests", "cuda_visible_devices"): ("gpus", "Write `gpus: [0]`."),
    ("tensor_parallel", "tensor_parallel_size", "tensor-parallel-size", "tp"): (
        "gpus", "It follows from `gpus`: [0, 1] splits the model over two."
    ),
    ("gpu_memory_utilization", "gpu-memory-utilization", "memory"): ("vram", 'Write `vram: "6GiB"` or "30%".'),
    ("max_model_len", "max-model-len", "ctx_size", "ctx-size", "n_ctx", "context_length"): (
        "context", "Write `context: 32768`."
    ),
    ("listen", "address", "bind_address"): ("bind", 'Write `bind: "lan"`, "loopback" or an address.'),
    ("restart", "restart_policy"): ("compose", "Remove it: containers start again by themselves, also after a boot."),
    ("volumes", "shm_size", "ipc", "ulimits", "labels", "network_mode", "healthcheck", "entrypoint", "cpus",
     "mem_limit"): (
        "compose", 'It is a key of Compose: write `compose: {"NAME": …}`.'
    ),
}  # fmt: skip
"""Words of Compose, engines and other tools → the field that has the same, and the hint where that field exists."""


def belongs(word: str, known: Sequence[str]) -> str:
    """The hint for a field of another tool; "" for other words.

    >>> belongs("volumes", ["compose"]), belongs("volumes", ["hardware"])
    ('It is a key of Compose: write `compose: {"volumes": …}`.', '')
    """
    if "file" in known:  # the source of a secret, whose `env` and `command` are not those of entries
        return ""
    for words, (field, hint) in MEANT.items():
        if word.lower() in words and field in known:
            return hint.replace("NAME", word)
    return ""


def unknown(kind: str, word: object, known: Sequence[str]) -> str:
    """The sentence for a word that is not one of `known`.

    >>> unknown("engine", "llamacpp", ["llama.cpp"])
    'unknown engine "llamacpp". Did you mean "llama.cpp"?'
    """
    return f'unknown {kind} "{word}". {suggestion(word, known)}'


def from_pydantic(host: str, prefix: str, error: ValidationError, fields: Mapping[str, Sequence[str]]) -> list[Problem]:
    """pydantic's errors as problems.

    fields: the names that are known at the level of `prefix` (key "") and in the maps below it (key: the field's name).
    """
    problems = []
    for item in error.errors():
        written, last = item["loc"][:-1], item["loc"][-1:]  # an unknown field is named last, and may look like a tag
        tagged = [*written, *(last if item["type"] != "extra_forbidden" else ())]
        location = [str(part) for before, part in zip(("", *tagged), tagged, strict=False) if _is_name(before, part)]
        location += [str(part) for part in last] if item["type"] == "extra_forbidden" else []
        path = ".".join(part for part in (prefix, *location) if part)
        known = fields.get(location[0] if len(location) > 1 else "", ()) if location else ()
        problems.append(_of_pydantic(item, known).at(host, path))
    return without_misspelt(problems, fields)


def without_misspelt(problems: Sequence[Problem], fields: Mapping[str, Sequence[str]]) -> list[Problem]:
    """The problems without required fields that are missing because they are misspelt, as `prot` for `port`.

    The unknown field names them. fields: as of `from_pydantic`.
    """
    meant = {
        (problem.host, parent, field)
        for problem in problems
        if problem.code == "unknown-field"
        for parent, _, word in [problem.path.rpartition(".")]
        if (field := meant_field(word, [known for names in fields.values() for known in names]))
    }
    return [
        problem
        for problem in problems
        if problem.code != "missing-field"
        or (problem.host, *(problem.path.rpartition(".")[part] for part in (0, 2))) not in meant
    ]


def meant_field(word: str, known: Sequence[str]) -> str | None:
    """The field that an unknown one was meant to be, or None.

    >>> meant_field("prot", ["port"]), meant_field("ports", ["port", "gpus"]), meant_field("colour", ["port"])
    ('port', 'port', None)
    """
    other = next((field for words, (field, _) in MEANT.items() if word.lower() in words and field in known), None)
    return other or nearest(word, known)


TYPES = {
    "model_type": "a map",
    "dict_type": "a map",
    "list_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
}
"""pydantic's type errors → the type as an admin calls it."""

EXAMPLES = {
    "docker": 'docker: {"source": "docker-ce"}',
    "nvidia": 'nvidia: {"toolkit": "1.20.1"}',
    "models": 'models: {"bge-m3": {"weights": "/w/bge-m3.gguf", "port": 8000}}',
    "services": 'services: {"chat": {"engine": "open-webui", "port": 3000}}',
    "jobs": 'jobs: {"q8": {"engine": "llama.cpp", "command": ["…"]}}',
    "defaults": 'defaults: {"engine": "llama.cpp", "bind": "lan"}',
    "engines": 'engines: {"vllm": {"version": "0.33.0"}}',
    "hosts": 'hosts: {"gpu1.lab": {"models": {}}}',
    "ssh_port": "ssh_port: 22",
    "all": 'all: {"docker": {"source": "docker-ce"}}',
    "hardware": 'hardware: {"A30": 4}',
    "daemon": 'daemon: {"live-restore": True}',
    "maintenance": 'maintenance: "RMA until 15 Jan"',
    "ssh_user": 'ssh_user: "root"',
    "mirrors": 'mirrors: {"docker.io": "mirror.uni.example/hub"}',
    "env": 'env: {"NAME": "value"}',
    "compose": 'compose: {"shm_size": "8gb"}',
    "registries": 'registries: {"ghcr.io": {"user": "ci", "password": {"env": "GHCR_TOKEN"}}}',
    "port": "port: 8000",
    "engine": "engine: llama.cpp",
    "context": "context: 32768",
    "git": 'git: "https://github.com/ggml-org/llama.cpp"',
    "revision": 'revision: "b7000"',
    "groups": 'groups: {"a30": {"hardware": {"A30": 4}}}',
}
"""Field → how it is written, for hints. Python and YAML read it the same."""


def wrong_type(expected: str, value: object, field: str) -> Problem:
    """The problem of a value of a wrong type, with what to write.

    >>> wrong_type("a whole number", "8000:8000", "port").hint
    'Write 8000: the port on the host alone.'
    >>> wrong_type("a whole number", "8000", "port").hint
    'Write 8000, without quotes.'
    """
    hint, text = "", value if isinstance(value, str) else ""
    shown = "a list" if isinstance(value, list | tuple) else "a map" if isinstance(value, Mapping) else repr(value)
    if expected == TYPES["int_type"] and text.isdigit():
        hint = f"Write {int(text)}, without quotes."
    elif expected == TYPES["int_type"] and re.fullmatch(r"\d+:\d+", text):
        hint = f"Write {text.partition(':')[0]}: the port on the host alone."
    elif expected == TYPES["int_type"] and re.fullmatch(r"\d+[kK]", text):
        hint = f"Write {int(text[:-1]) * 1024}."
    elif expected == TYPES["bool_type"] and text.lower() in BOOLEANS:
        hint = f"Write {BOOLEANS[text.lower()]}, without quotes."
    elif expected == TYPES["int_type"] and isinstance(value, float) and value.is_integer():
        hint = f"Write {int(value)}."
    elif expected == TYPES["bool_type"] and value in (0, 1):
        hint = f"Write {'true' if value else 'false'}."
    elif expected == TYPES["list_type"] and text:
        parts = [int(word) if word.isdigit() else word for word in text.replace(",", " ").split()]
        hint = f"Write {field}: {json.dumps(parts)}."
    elif field.startswith(("hosts.", "groups.")):
        below = '{"models": {…}}' if field.startswith("hosts.") else '{"hardware": {"A30": 4}}'
        hint = f"Write {field.partition('.')[2]}: {below}."
    elif expected == TYPES["dict_type"] and isinstance(value, list) and (words := assignments(value)):
        hint = f"Write {field}: {json.dumps(words)}."
    elif field in EXAMPLES:
        hint = f"Write {EXAMPLES[field]}."
    elif expected == TYPES["string_type"] and isinstance(value, int | float) and not isinstance(value, bool):
        hint = f'Write "{value}", in quotes.'
    elif expected == TYPES["string_type"] and isinstance(value, list) and value and isinstance(value[0], str):
        hint = f'It takes one: write "{value[0]}".'
    elif expected == "a map of fields":
        hint = f'Write {field}: {{"engine": …, "port": …}}.'
    return Problem.of("wrong-type", expected=expected, value=shown, hint=hint)


def assignments(words: Sequence[object]) -> dict[str, str]:
    """`["A=b"]`, as Compose writes variables, as a map; {} if one of the words is none.

    >>> assignments(["A=b", "C=d=e"]), assignments(["A=b", "C"])
    ({'A': 'b', 'C': 'd=e'}, {})
    """
    pairs = [str(word).partition("=") for word in words]
    return {name: value for name, _, value in pairs} if all(equals for _, equals, _ in pairs) else {}


BOOLEANS = dict.fromkeys(("yes", "on", "true"), "true") | dict.fromkeys(("no", "off", "false"), "false")
HINTS = {"sha256": "`sha256sum FILE` prints it; hubs show it beside the file."}
"""Field → the hint if it is missing and has no example."""
LIMITS = {"greater_than_equal": ("at least", "ge"), "less_than_equal": ("at most", "le")}
"""pydantic's range errors → in words, and the limit's name in its context."""


def _is_union_tag(part: Any) -> bool:
    """pydantic puts the tried type of a union into the location (`weights.UrlWeights.sha256`)."""
    return isinstance(part, str) and (part[:1].isupper() or part.startswith(("function-", "list[", "constrained")))


def _is_name(before: Any, part: Any) -> bool:
    """Is a part of pydantic's location one of the inventory? before: the part in front of it."""
    return before in NAMES_BELOW or not _is_union_tag(part)


NAMES_BELOW = ("hardware", "env", "compose", "config")
"""The maps whose keys are anyone's names, also in capitals."""


def _of_pydantic(item: Any, fields: Sequence[str]) -> Problem:
    kind, value, context = item["type"], repr(item.get("input")), item.get("ctx", {})
    wrong = context.get("error")
    if isinstance(wrong, Wrong):
        return Problem.of(wrong.code, **wrong.parameters)
    if kind == "extra_forbidden":
        return Problem.unknown("unknown-field", item["loc"][-1], fields)
    example = f"Write {EXAMPLES[name]}." if (name := str(item["loc"][-1])) in EXAMPLES else ""
    if kind == "missing":
        return Problem.of("missing-field", hint=example or HINTS.get(name, ""))
    if kind == "literal_error":
        return Problem.of("unknown-value", expected=context["expected"], value=value)
    if kind in ("string_too_short", "too_short"):
        return Problem.of("empty-value")
    if kind in TYPES:
        field = "hardware" if item["loc"][0] == "hardware" else str(item["loc"][-1])  # else the name of a GPU
        return wrong_type(TYPES[kind], item.get("input"), field)
    if kind in LIMITS:
        words, limit = LIMITS[kind]
        return Problem.of("out-of-range", limit=f"{words} {context[limit]}", value=value, hint=example)
    return Problem.of("invalid-value", what=str(item["msg"]).rstrip("."))
