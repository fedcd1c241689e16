"""`gpurack endpoints`: what an admin hands to people. Names, addresses that work from their desks, a line to try."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from gpurack import screen
from gpurack.endpoints import endpoint, on_loopback
from gpurack.engines import ENGINES
from gpurack.engines.args import given
from gpurack.plan import weights
from gpurack.shell import sh
from gpurack.spec.connection import Connection
from gpurack.spec.host import Host
from gpurack.spec.model import Model
from gpurack.state.model import Header

Kind = Literal["chat", "completion", "embedding", "rerank", "web page", "API"]
Headers = Mapping[str, Mapping[str, Header]]
"""Host → path of weights → its header, as it was seen last."""


NOTHING = (
    'Nobody reaches anything from another machine: all is bound to loopback (bind: "lan"), disabled, or not there.'
)


@dataclass(frozen=True)
class Offer:
    """One line of the list. name: what people ask for. address: where. engine: what serves it. hosts: where it runs.
    through: the gateway that people reach it by, "" for none. keyed: does it want a key? curl: a line to try it with,
    which takes the key from $KEY; "" for a page."""

    name: str
    kind: Kind
    address: str
    engine: str
    hosts: tuple[str, ...]
    through: str
    keyed: bool
    curl: str


def offers(fleet: Mapping[str, Host], headers: Headers) -> list[Offer]:
    """Everything that people reach from their desks: a model behind a gateway at the gateway's address, once for all of
    its replicas; then models with an address of their own; then pages."""
    found: dict[tuple[str, str], Offer] = {}
    gateways = [(host, key, model) for host, key, model in entries(fleet) if ENGINES[model.engine].gateway]
    behind = {(other.host, other.name) for host, key, _ in gateways for other in fleet[host].connections(key)}
    for host, key, gateway in gateways:
        if (host, key) in behind:  # people use the one before it
            continue
        for other in models_behind(fleet, host, key):
            kind = kind_of(other.name, other.model, header_of(fleet, headers, other.host, other.model))
            for name in other.serves:
                before = found.get((key, name))
                hosts = tuple(dict.fromkeys([*(before.hosts if before else ()), other.host]))
                keyed = bool(gateway.api_key or gateway.keys)
                found[key, name] = offer(
                    name, kind, endpoint(host, fleet[host], gateway), other.model, hosts, key, keyed
                )
    pages = []
    for host, key, model in entries(fleet):
        engine, address = ENGINES[model.engine], endpoint(host, fleet[host], model)
        if (host, key) in behind or engine.gateway:
            continue
        if key in fleet[host].services:
            pages.append(Offer(key, "web page", address, model.engine, (host,), "", False, ""))
            continue
        # how an unknown image is spoken to, nobody knows; through a gateway it is as OpenAI's
        unknown = engine.api == "unknown"
        kind = "API" if unknown else kind_of(key, model, header_of(fleet, headers, host, model))
        for name in engine.serves(model, model.served_name or key):
            found[f"{host}/{key}", name] = offer(name, kind, address, model, (host,), "", bool(model.api_key))
    return [*sorted(found.values(), key=lambda one: (not one.through, one.name)), *pages]


def models_behind(fleet: Mapping[str, Host], host: str, gateway: str) -> list[Connection]:
    """The models that a gateway hands on to, those of a gateway behind it among them."""
    found: list[Connection] = []
    for other in fleet[host].connections(gateway):
        inner = fleet[other.host].connections(other.name) if ENGINES[other.model.engine].gateway else [other]
        found += [one for one in inner if one.name in fleet[one.host].models]
    return found


def entries(fleet: Mapping[str, Host]) -> list[tuple[str, str, Model]]:
    """(host, name, entry) of all that is enabled and reached from outside its host."""
    return [
        (host, key, model)
        for host, spec in fleet.items()
        for key, model in spec.entries.items()
        if model.enabled and not on_loopback(model.bind)
    ]


def offer(
    name: str, kind: Kind, address: str, model: Model, hosts: tuple[str, ...], through: str, keyed: bool
) -> Offer:
    """A model's line; a gateway speaks OpenAI whatever the engine behind it does."""
    curl = curl_line(name, kind, address, keyed, own_rerank=ENGINES[model.engine].api == "tei" and not through)
    return Offer(name, kind, address, model.engine, hosts, through, keyed, curl)


def header_of(fleet: Mapping[str, Host], headers: Headers, host: str, model: Model) -> Header | None:
    """What is remembered of a model's weights."""
    return headers.get(host, {}).get(weights.host_path(fleet[host], model))


def kind_of(key: str, model: Model, header: Header | None) -> Kind:
    """What a model is for. One that is known to have no chat template goes on with texts, and chats only where its
    flags or its engine bring one."""
    kind, template = family_of(key, model, header), header.config.get("chat_template") if header else None
    engine = ENGINES[model.engine]
    if kind == "chat" and not engine.chats:  # the embedding models of today are causal ones, too
        return "embedding"
    brought = engine.own_template or given(model).keys() & {"chat-template"}
    return "completion" if kind == "chat" and template is False and not brought else kind


def family_of(key: str, model: Model, header: Header | None) -> Kind:
    """By its flags, by what its weights say, else by its name; what writes is a chat model."""
    flags = given(model)
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
    return of_name(f"{key} {model.served_name or ''} {model.weights or ''}".lower())


def of_name(name: str) -> Kind:
    """A guess, for weights that nobody has looked at yet.

    >>> of_name("BAAI/bge-reranker-large"), of_name("bge-m3"), of_name("qwen2.5-7b-instruct")
    ('rerank', 'embedding', 'chat')
    """
    if "rerank" in name:
        return "rerank"
    return "embedding" if re.search(r"embed|minilm|\b(bge|gte|e5)[-_]", name) else "chat"


def curl_line(name: str, kind: Kind, address: str, keyed: bool, own_rerank: bool) -> str:
    """A request that people can paste. own_rerank: TEI's own form of it."""
    said: dict[str, tuple[str, Any]] = {
        "chat": ("/chat/completions", {"model": name, "messages": [{"role": "user", "content": "Who are you?"}]}),
        "completion": ("/completions", {"model": name, "prompt": "Once upon a time"}),
        "embedding": ("/embeddings", {"model": name, "input": "Hello"}),
        "rerank": ("/rerank", {"model": name, "query": "fruit", "documents": ["an apple", "a bicycle"]}),
    }
    key = sh('-H "Authorization: Bearer $KEY" ') if keyed else sh("")
    if own_rerank and kind == "rerank":
        address, said["rerank"] = (
            address.removesuffix("/v1"),
            ("/rerank", {"query": "fruit", "texts": ["an apple", "a bicycle"]}),
        )
    if kind not in said:
        return sh("curl {}{}", key, address)
    path, body = said[kind]
    return sh("curl {}{} {}-H 'Content-Type: application/json' -d {}", address, path, key, json.dumps(body))


def show(console: screen.Console, found: Sequence[Offer]) -> None:
    """A table, and below it a line to try each."""
    if not found:
        console.print(NOTHING, soft_wrap=True)
        return
    titles = ("NAME", "KIND", "ADDRESS", "ENGINE", "RUNS ON")
    table = screen.table(*titles, broken=titles)
    for one in found:
        table.add_row(one.name, one.kind, one.address, one.engine, runs_on(one))
    console.print(table)
    console.print()
    if any(one.keyed for one in found):
        console.print(screen.line(("# export KEY=…, the one that you were given", "dim")))
    for one in found:
        if one.curl:
            console.print(one.curl, soft_wrap=True)


def markdown(found: Sequence[Offer]) -> str:
    """The same, for a wiki or a mail."""
    lines = ["| name | kind | address | engine | runs on |", "|---|---|---|---|---|"]
    lines += [f"| {one.name} | {one.kind} | {one.address} | {one.engine} | {runs_on(one)} |" for one in found]
    curls = [one.curl for one in found if one.curl]
    if curls:
        key = ["export KEY=…   # the one that you were given"] if any(one.keyed for one in found) else []
        lines += ["", "```sh", *key, *curls, "```"]
    return "\n".join(lines) + "\n"


def runs_on(one: Offer) -> str:
    """`gpu1.lab, gpu2.lab`"""
    return ", ".join(one.hosts)


def as_data(found: Sequence[Offer]) -> list[dict[str, Any]]:
    """For programs."""
    return [asdict(one) for one in found]
