"""Containers beside the models: those that only pull models, and those that no entry can mean."""

import re
from collections.abc import Sequence
from dataclasses import replace

from gpurack.engines import ENGINES
from gpurack.engines.base import Engine
from gpurack.importing import recognise
from gpurack.importing.command import HARMLESS, commands_in, started
from gpurack.importing.container import ContainerRun, Finding, Pull

NO_HTTP = (
    r"postgres(ql)?|postgis|pgvector|timescaledb|mysql|mariadb|mongo(db)?|redis(-stack)?|valkey|keydb|memcached|nats|"
    r"rabbitmq|kafka"
)
"""Images of databases and queues, which answer no HTTP request."""
HELPERS = re.compile(
    rf"(.*[-_/])?({NO_HTTP}|"
    r"qdrant|milvus|weaviate|chroma|elasticsearch|opensearch|neo4j|clickhouse-server|minio|etcd|"
    r"nginx|traefik|caddy|haproxy|envoy|nginx-proxy-manager|prometheus|grafana|loki|dcgm-exporter|node-exporter|cadvisor|"
    r"searxng|portainer(-ce)?|watchtower|adminer|pgadmin4|alertmanager|jaeger|otel-collector|tika|docling-serve)"
)
"""Images (without tag) of databases, caches, proxies and monitoring."""
WAITING = (*HARMLESS, "wait", "curl", "kill", "trap", "grep")
"""Commands around a pull that change nothing."""
ONCE = (
    *WAITING, "huggingface-cli", "hf", "modelscope", "git", "wget", "pip", "mkdir", "cp", "mv", "rm", "ln", "ls", "cat",
    "chown", "chmod", "nvidia-smi",
)  # fmt: skip
"""Commands that end, and start no server."""
API_MODEL = re.compile(r"""["'](?:name|model)\\?["']\s*:\s*\\?["']([^"'\\]+)""")


def is_helper(image: str) -> bool:
    """True for the image of a database, a proxy or the like.

    >>> is_helper("docker.io/library/postgres"), is_helper("pgvector/pgvector"), is_helper("lab/redis-llm")
    (True, True, False)
    """
    return bool(HELPERS.fullmatch(image))


def answers_http(image: str) -> bool:
    """False for the image of a database or a queue.

    >>> answers_http("postgres"), answers_http("qdrant/qdrant")
    (False, True)
    """
    return not re.fullmatch(rf"(.*[-_/])?({NO_HTTP})", image)


def runs_once(run: ContainerRun, engine: Engine) -> bool:
    """True for a container of an engine's image whose commands all end: downloads, copies, `ollama create`."""
    plain = [(recognise.base(one[0]), *one[1:2]) for one in commands_in(started(run.argv)) if one]
    return bool(plain) and all(one[0] in ONCE or one in engine.dialect.ends for one in plain)


def pulled_in(command: Sequence[str]) -> tuple[bool, list[str]]:
    """(does it also serve, the models that a command pulls, also in a shell or by the API); none if it does more.

    >>> pulled_in(["sh", "-c", "ollama pull a && ollama pull b"]), pulled_in(["ollama", "list"])
    ((False, ['a', 'b']), (False, []))
    """
    whole, dialects = " ".join(command), [engine.dialect for engine in ENGINES.values() if engine.dialect.pulls]
    if any(one.pull_path in whole for one in dialects) and (by_api := API_MODEL.findall(whole)):
        return False, by_api
    serves, models = False, []
    for one in commands_in(command):
        plain = [recognise.base(one[0]), *one[1:]]
        if found := recognise.pulled(plain):
            models.append(found)
        elif any(recognise.after_program(dialect.programs, plain) == [] for dialect in dialects):
            serves = True
        elif plain[0] not in WAITING and plain[1:2] != ["list"]:
            return False, []
    return serves, models


def pulled_by(run: ContainerRun) -> tuple[bool, list[str]]:
    """(does it also serve, the models that a container pulls); none if it does anything else."""
    direct, engine = started(run.argv), recognise.engine_of(run.image)
    if engine and run.entrypoint is None and (engine.name, *direct[:1]) in engine.dialect.pulls:
        direct = [engine.name, *direct]
    return pulled_in(direct) if direct else (False, [])


def without_pullers(
    runs: Sequence[ContainerRun], pulls: Sequence[Pull]
) -> tuple[list[ContainerRun], dict[str, list[str]], list[Finding]]:
    """(containers that serve; container → models that others pull in it; findings). pulls: by commands of the text."""
    kept: list[ContainerRun] = []
    pullers: list[Pull] = []
    found: dict[str, list[str]] = {}
    findings: list[Finding] = []
    for run in runs:
        serves, models = pulled_by(run)
        if serves and models:
            found.setdefault(run.name or "", []).extend(models)
            run = replace(run, entrypoint=None, command=())
        if serves or not models:
            kept.append(run)
        else:
            said = " ".join([*run.environment.values(), *run.argv])
            pullers.append(Pull(run.where, models, re.findall(r"[\w.-]+", said)))
    servers = {run.name or "": run for run in kept if (one := recognise.engine_of(run.image)) and one.dialect.pulls}
    for pull in [*pulls, *pullers]:
        named = [name for name, one in servers.items() if {name, *one.aliases} & {*pull.said}] or list(servers)
        which = ", ".join(pull.models)
        if len(named) != 1:
            findings.append(Finding("open", pull.where, f"only pulls {which}. Add them to `pull` of an entry."))
            continue
        found.setdefault(named[0], []).extend(pull.models)
        if pull in pullers:
            server = named[0] or servers[""].image
            findings.append(Finding("changed", pull.where, f"only pulls {which}, which became `pull` of {server}."))
    return kept, found, findings
