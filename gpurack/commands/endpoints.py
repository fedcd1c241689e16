"""`gpurack endpoints`: the list an admin gives to users: model names, reachable addresses and a curl command each."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from gpurack import screen
from gpurack.engines import ENGINES
from gpurack.engines.args import explicit_args
from gpurack.engines.urls import endpoint, on_loopback, public_name
from gpurack.facts.parts import Header
from gpurack.plan.models import weights
from gpurack.shell import sh
from gpurack.spec.connection import Connection
from gpurack.spec.host import Host
from gpurack.spec.model import Model

Kind = Literal["chat", "completion", "embedding", "rerank", "web page", "API"]
Headers = Mapping[str, Mapping[str, Header]]
"""Host → path of weights → their header, from the latest snapshot."""


NO_ENDPOINTS = 'No model or service is reachable from other machines. Set `bind: "lan"` in an enabled entry.'


@dataclass(frozen=True)
class PublicEndpoint:
    """One line of the list.

    name: the model name in requests. address: the base URL. hosts: where it runs. through: the gateway in front of it,
    "" for none. keyed: do requests need a key? curl: a test request that reads the key from $KEY, "" for a web page.
    maintenance: the hosts in maintenance → why.
    """

    name: str
    kind: Kind
    address: str
    engine: str
    hosts: tuple[str, ...]
    through: str
    keyed: bool
    curl: str
    maintenance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OnHostOnly:
    """An entry that only its own host can reach.

    name: of its entry. address: its URL through `tunnel`, a command for the user's own machine.
    """

    name: str
    address: str
    tunnel: str


def public_endpoints(fleet: Mapping[str, Host], headers: Headers) -> list[PublicEndpoint]:
    """Return everything that users can reach.

    In this order: models behind a gateway (at the gateway's address, once for all replicas), models with their own
    address, web pages.
    """
    found: dict[tuple[str, str], PublicEndpoint] = {}
    gateways = [(host, key, model) for host, key, model in reachable_entries(fleet) if ENGINES[model.engine].gateway]
    behind = {(other.host, other.name) for host, key, _ in gateways for other in fleet[host].connections(key)}
    for host, key, gateway in gateways:
        if (host, key) in behind:  # users call the gateway in front of it
            continue
        for other in models_behind(fleet, host, key):
            kind = kind_of(other.name, other.model, weights_header(fleet, headers, other.host, other.model))
            for name in other.serves:
                before = found.get((key, name))
                hosts = tuple(dict.fromkeys([*(before.hosts if before else ()), other.host]))
                keyed = bool(gateway.api_key or gateway.keys)
                found[key, name] = model_endpoint(
                    name, kind, endpoint(host, fleet[host], gateway), other.model, hosts, key, keyed
                )
    pages = []
    for host, key, model in reachable_entries(fleet):
        engine, address = ENGINES[model.engine], endpoint(host, fleet[host], model)
        if (host, key) in behind or engine.gateway:
            continue
        if key in fleet[host].services:
            pages.append(PublicEndpoint(key, "web page", address, model.engine, (host,), "", False, ""))
            continue
        # the API of an unknown image is not known; behind a gateway it is OpenAI's
        unknown = engine.api == "unknown"
        kind = "API" if unknown else kind_of(key, model, weights_header(fleet, headers, host, model))
        for name in engine.serves(model, model.name_served(key)):
            found[f"{host}/{key}", name] = model_endpoint(name, kind, address, model, (host,), "", bool(model.api_key))
    ordered = [*sorted(found.values(), key=lambda one: (not one.through, one.name)), *pages]
    resting = {host: spec.maintenance for host, spec in fleet.items() if spec.maintenance}
    return [replace(one, maintenance={host: resting[host] for host in one.hosts if host in resting}) for one in ordered]


def on_host_only(fleet: Mapping[str, Host]) -> list[OnHostOnly]:
    """The enabled entries that only their own host can reach, directly or through a gateway."""
    behind = {
        (other.host, other.name)
        for host, key, model in reachable_entries(fleet)
        if ENGINES[model.engine].gateway
        for other in [*fleet[host].connections(key), *models_behind(fleet, host, key)]
    }
    return [
        OnHostOnly(key, endpoint(host, spec, model.model_copy(update={"bind": "loopback"})), tunnel(host, spec, model))
        for host, spec in fleet.items()
        for key, model in spec.entries.items()
        if model.enabled and on_loopback(model.bind) and (host, key) not in behind
    ]


def tunnel(host: str, spec: Host, model: Model) -> str:
    """The command that makes an entry on loopback reachable at the same port of the user's machine."""
    inside = "localhost" if model.bind == "loopback" else f"[{model.bind}]" if ":" in model.bind else model.bind
    return sh("ssh -N -L {} {}", f"{model.port}:{inside}:{model.port}", public_name(host, spec))


def models_behind(fleet: Mapping[str, Host], host: str, gateway: str) -> list[Connection]:
    """The models that a gateway forwards to, also through a second gateway."""
    found: list[Connection] = []
    for other in fleet[host].connections(gateway):
        inner = fleet[other.host].connections(other.name) if ENGINES[other.model.engine].gateway else [other]
        found += [one for one in inner if one.name in fleet[one.host].models]
    return found


def reachable_entries(fleet: Mapping[str, Host]) -> list[tuple[str, str, Model]]:
    """(host, name, entry) of every enabled entry that is not bound to loopback."""
    return [
        (host, key, model)
        for host, spec in fleet.items()
        for key, model in spec.entries.items()
        if model.enabled and not on_loopback(model.bind)
    ]


def model_endpoint(
    name: str, kind: Kind, address: str, model: Model, hosts: tuple[str, ...], through: str, keyed: bool
) -> PublicEndpoint:
    """The line of one model. A gateway speaks OpenAI's API, whatever the engine behind it does."""
    curl = curl_line(name, kind, address, keyed, own_rerank=ENGINES[model.engine].api == "tei" and not through)
    return PublicEndpoint(name, kind, address, model.engine, hosts, through, keyed, curl)


def weights_header(fleet: Mapping[str, Host], headers: Headers, host: str, model: Model) -> Header | None:
    """The remembered header of a model's weights, None if they were never inspected."""
    return headers.get(host, {}).get(weights.host_path(fleet[host], model))


def kind_of(key: str, model: Model, header: Header | None) -> Kind:
    """What a model is for. "completion" if its weights have no chat template and neither flags nor engine set one."""
    kind, template = kind_without_template(key, model, header), header.config.get("chat_template") if header else None
    engine = ENGINES[model.engine]
    if kind == "chat" and not engine.chats:  # current embedding models are also causal models
        return "embedding"
    has_template = engine.own_template or explicit_args(model).keys() & {"chat-template"}
    return "completion" if kind == "chat" and template is False and not has_template else kind


def kind_without_template(key: str, model: Model, header: Header | None) -> Kind:
    """The kind by the model's flags, else by the architecture in its weights, else by its name."""
    flags = explicit_args(model)
    if flags.get("convert") == "classify" or "reranking" in flags or "rerank" in flags:
        return "rerank"
    if flags.get("convert") == "embed" or flags.keys() & {"embedding", "embeddings", "is-embedding"}:
        return "embedding"
    config = header.config if header else {}
    architecture = " ".join(map(str, config.get("architectures") or [config.get("general.architecture", "")]))
    if "SequenceClassification" in architecture:
        return "rerank"
    if re.search(r"CausalLM|ConditionalGeneration|LMHead|^(llama|qwen|gemma|phi|mistral)", architecture):
        return "chat"
    if re.search(r"bert|roberta", architecture, re.IGNORECASE):
        return "embedding"
    return kind_by_name(f"{key} {model.served_name or ''} {model.weights or ''}".lower())


def kind_by_name(name: str) -> Kind:
    """A guess, for weights that were not inspected yet.

    >>> kind_by_name("BAAI/bge-reranker-large"), kind_by_name("bge-m3"), kind_by_name("qwen2.5-7b-instruct")
    ('rerank', 'embedding', 'chat')
    """
    if "rerank" in name:
        return "rerank"
    return "embedding" if re.search(r"embed|minilm|\b(bge|gte|e5)[-_]", name) else "chat"


def curl_line(name: str, kind: Kind, address: str, keyed: bool, own_rerank: bool) -> str:
    """A test request to paste. own_rerank: use TEI's own rerank API."""
    requests: dict[str, tuple[str, Any]] = {
        "chat": ("/chat/completions", {"model": name, "messages": [{"role": "user", "content": "Who are you?"}]}),
        "completion": ("/completions", {"model": name, "prompt": "Once upon a time"}),
        "embedding": ("/embeddings", {"model": name, "input": "Hello"}),
        "rerank": ("/rerank", {"model": name, "query": "fruit", "documents": ["an apple", "a bicycle"]}),
    }
    key = sh('-H "Authorization: Bearer $KEY" ') if keyed else sh("")
    if own_rerank and kind == "rerank":
        address, requests["rerank"] = (
            address.removesuffix("/v1"),
            ("/rerank", {"query": "fruit", "texts": ["an apple", "a bicycle"]}),
        )
    if kind not in requests:
        return sh("curl {}{}", key, address)
    path, body = requests[kind]
    return sh("curl {}{} {}-H 'Content-Type: application/json' -d {}", address, path, key, json.dumps(body))


def show(console: screen.Console, found: Sequence[PublicEndpoint], hidden: Sequence[OnHostOnly]) -> None:
    """Print a table, a curl command for each model, and how to reach what only its own host can reach (hidden)."""
    if found:
        show_public(console, found)
    else:
        console.print(NO_ENDPOINTS, soft_wrap=True)
    if hidden:
        console.print()
        console.print("Only their own host can reach these (`bind: loopback`). From here, with its command running:")
        table = screen.table()
        for one in hidden:
            table.add_row(f"  {one.name}", one.tunnel, one.address)
        console.print(table)


def show_public(console: screen.Console, found: Sequence[PublicEndpoint]) -> None:
    """Print a table, and a curl command for each model."""
    titles = ("NAME", "KIND", "ADDRESS", "ENGINE", "RUNS ON")
    table = screen.table(*titles, broken=titles)
    for one in found:
        table.add_row(one.name, one.kind, one.address, one.engine, runs_on(one))
    console.print(table)
    console.print()
    if any(one.keyed for one in found):
        console.print(screen.line(("# export KEY=…  (your API key)", "dim")))
    for one in found:
        if one.curl:
            console.print(one.curl, soft_wrap=True)


def markdown(found: Sequence[PublicEndpoint]) -> str:
    """The list as Markdown."""
    lines = ["| name | kind | address | engine | runs on |", "|---|---|---|---|---|"]
    lines += [f"| {one.name} | {one.kind} | {one.address} | {one.engine} | {runs_on(one)} |" for one in found]
    curls = [one.curl for one in found if one.curl]
    if curls:
        key = ["export KEY=…   # your API key"] if any(one.keyed for one in found) else []
        lines += ["", "```sh", *key, *curls, "```"]
    return "\n".join(lines) + "\n"


def runs_on(one: PublicEndpoint) -> str:
    """`gpu1.lab, gpu2.lab (maintenance: RMA until 15 Jan)`"""
    why = {host: f" (maintenance: {reason})" for host, reason in one.maintenance.items()}
    return ", ".join(f"{host}{why.get(host, '')}" for host in one.hosts)


def as_data(found: Sequence[PublicEndpoint]) -> list[dict[str, Any]]:
    """The list as JSON data (`--json`)."""
    return [asdict(one) for one in found]
