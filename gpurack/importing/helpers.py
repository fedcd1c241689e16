"""Containers beside the models: those that only pull models, and those that no entry can mean."""

import re
from collections.abc import Sequence
from dataclasses import replace

from gpurack.engines import ENGINES
from gpurack.engines.base import Engine
from gpurack.importing import recognise, words
from gpurack.importing.command import HARMLESS, shell_text, started
from gpurack.importing.container import ContainerRun

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
    direct = started([*(run.entrypoint or ()), *run.command])
    of_shell = shell_text(direct)
    commands = [one.words for one in words.read(of_shell[0]).commands] if of_shell else [tuple(direct)]
    plain = [(recognise.base(one[0]), *one[1:2]) for one in commands if one]
    short = {(engine.name, word) for word in ("create", "cp", "rm", "list", "show")} if engine.dialect.pulls else set()
    return bool(plain) and all(one[0] in ONCE or one in short for one in plain)


def pulled_in(command: Sequence[str]) -> list[tuple[Engine, str]]:
    """(engine, model) for each model that a command pulls, if it does nothing else: also in a shell, or by the API.

    >>> [model for _, model in pulled_in(["sh", "-c", "ollama pull a && ollama pull b"])], pulled_in(["ollama", "list"])
    (['a', 'b'], [])
    """
    whole = " ".join(command)
    for engine in ENGINES.values():
        if engine.dialect.pull_path and engine.dialect.pull_path in whole:
            return [(engine, model) for model in API_MODEL.findall(whole)]
    of_shell = shell_text(command)
    commands = [one.words for one in words.read(of_shell[0]).commands] if of_shell else [tuple(command)]
    found = [recognise.pulled(one) for one in commands]
    return [one for one in found if one] if all(found) else []


def pulls_of(run: ContainerRun, engine: Engine | None) -> tuple[bool, list[str]] | None:
    """(does it also serve, the models it pulls) of a container that does nothing else; None for any other."""
    direct = started([*(run.entrypoint or ()), *run.command])
    whole = " ".join(direct)
    paths = [one.dialect.pull_path for one in ENGINES.values() if one.dialect.pull_path]
    if any(path in whole for path in paths) and (by_api := API_MODEL.findall(whole)):
        return False, by_api
    if engine is None or not engine.dialect.pulls or not direct:
        return None
    if run.entrypoint is None and direct[0] == "pull":
        direct = [engine.name, *direct]
    of_shell = shell_text(direct)
    commands = [one.words for one in words.read(of_shell[0]).commands] if of_shell else [tuple(direct)]
    serves, models = False, []
    for one in commands:
        plain = [recognise.base(one[0]), *one[1:]]
        if found := recognise.pulled(plain):
            models.append(found[1])
        elif recognise.after_program(engine, plain) == []:
            serves = True
        elif plain[0] not in WAITING and plain[:2] != [engine.name, "list"]:
            return None
    return (serves, models) if models else None


def without_pullers(
    runs: Sequence[ContainerRun],
) -> tuple[list[ContainerRun], dict[str, list[str]], list[tuple[ContainerRun, list[str], str]]]:
    """(containers that serve; container → models that others pull in it; pullers with their models and server)"""
    kept: list[ContainerRun] = []
    pullers: list[tuple[ContainerRun, list[str]]] = []
    pulls: dict[str, list[str]] = {}
    for run in runs:
        found = pulls_of(run, recognise.engine_of(run.image))
        if found is None:
            kept.append(run)
        elif found[0]:
            kept.append(replace(run, entrypoint=None, command=()))
            pulls.setdefault(run.name or "", []).extend(found[1])
        else:
            pullers.append((run, found[1]))
    servers = {run.name or "": run for run in kept if (one := recognise.engine_of(run.image)) and one.dialect.pulls}
    served = []
    for run, models in pullers:
        said = " ".join([*run.environment.values(), *run.command, *(run.entrypoint or ())])
        named = [name for name, one in servers.items() if set(re.findall(r"[\w.-]+", said)) & {name, *one.aliases}]
        server = named[0] if len(named) == 1 else next(iter(servers)) if len(servers) == 1 else ""
        if server in servers:
            pulls.setdefault(server, []).extend(models)
        served.append((run, models, server if server in servers else ""))
    return kept, pulls, served
