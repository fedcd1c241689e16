"""LiteLLM: one OpenAI address for the models of the lab.

Sources (LiteLLM 1.109.1; run as 1.106.2): it runs without a database from a YAML file. Entries of the same name share
the load. `os.environ/NAME` in that file is read from the environment. /health calls every model, so gpurack asks
/health/readiness. LITELLM_LOCAL_MODEL_COST_MAP keeps it from fetching its price list. `general_settings.custom_auth`
and callbacks are names in a Python file beside the configuration. files/litellm_gateway.py is that file.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import yaml

from gpurack.engines.args import explicit_args, flags, with_dashes
from gpurack.engines.base import RUNS_NO_MODEL, Engine, Row
from gpurack.engines.container import Accelerator, Container, Run, Upstream, with_secrets
from gpurack.engines.dialect import ConfiguredUpstream, Dialect
from gpurack.engines.hints import DATABASE, Hint
from gpurack.resources import read_text
from gpurack.spec.model import Model
from gpurack.spec.problems import Problem

CONFIG = "/etc/gpurack/litellm.yaml"
GATEWAY = "/etc/gpurack/gateway.py"
PATIENCE = {"allowed_fails": 0, "cooldown_time": 10, "allowed_fails_policy": {"NotFoundErrorAllowedFails": 1_000_000}}
"""A replica that failed once is used again after 10 s. A single replica is always used.

A request that the model does not support (a chat with a model for embeddings) is answered with 404, and is not a
failure of the model.
"""
HOST_KEY = "/dev/shm/gpurack_key"
"""The path of the key for the host's checks, in the container's memory. Only its root can read it."""
START = (
    'random() { od -An -N24 -tx1 /dev/urandom | tr -d " \\n"; }; export LITELLM_MASTER_KEY="sk-$(random)"; '
    '(umask 077; random > "$GATEWAY_HOST_KEY"); exec "$@"'
)
"""Two random keys, new at each start.

Without a master key, parts of LiteLLM's management would be open. The container knows clients' keys only by their
digests, so the host needs a key of its own for its checks.
"""


def model_and_address(upstream: Upstream, served: str) -> dict[str, str]:
    """Return the model and address of an upstream in LiteLLM's configuration.

    OpenAI's API has no rerank. LiteLLM supports the rerank of vLLM, which other engines also implement, and that of
    TEI, which differs. Only the name tells that a model reranks.
    """
    rerank = "rerank" in served.lower()
    if upstream.api == "tei" and rerank:
        return {"model": f"huggingface/{served}", "api_base": upstream.url.removesuffix("/v1")}
    provider = "hosted_vllm" if upstream.api == "vllm" or rerank else "openai"
    return {"model": f"{provider}/{served}", "api_base": upstream.url}


class _Plain(yaml.SafeDumper):
    """YAML that repeats data instead of using anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class Litellm(Engine):
    """`litellm --config`, with files that gpurack writes."""

    name = "litellm"
    title = "LiteLLM"
    row = Row(
        serves="one address for many models",
        image="`docker.litellm.ai/berriai/litellm:main-v1.109.1`",
        gpus="–",
        key="one for each user or group",
        sets="the list of models with their keys, no open management API",
        limits="a service",
        state="**real program**",
    )
    dialect = Dialect(
        images="litellm(-database|-non_root)?",
        moved={"ghcr.io/berriai/litellm": "docker.litellm.ai/berriai/litellm"},
        programs=(("litellm",), ("docker/prod_entrypoint.sh",)),
        keeps_spelling=True,
        variables={
            "LITELLM_MASTER_KEY": "api-key",
            "GATEWAY_API_KEY": "api-key-file", "GATEWAY_KEYS": "keys-file", "GATEWAY_HOST_KEY": "gpurack makes it",
        },
        caches={CONFIG: "gpurack writes it", GATEWAY: "gpurack writes it"},
    )  # fmt: skip
    hints = (Hint(r"DATABASE_URL uses unsupported scheme|Redis URL must specify", DATABASE),)
    host_key = HOST_KEY
    port = 4000
    ready_path = "/health/readiness"
    ready_names_model = False
    service = True
    gateway = True
    fields = frozenset({"connects_to", "keys"})
    unused = RUNS_NO_MODEL
    own_args: ClassVar = {"config": "connects_to", "port": "port", "host": "bind", "model": "connects_to"}

    def image(self, version: str, accelerator: Accelerator) -> str:
        """Return the image. `version` is upstream's tag without "main-v" ("1.109.1", "1.81.14-stable")."""
        return f"docker.litellm.ai/berriai/litellm:main-v{version}"

    def prompt_logs(self, model: Model) -> list[str]:
        """Return flags and variables that log requests: --detailed_debug, --debug, LITELLM_LOG=DEBUG."""
        args = explicit_args(model)
        found = [f"args.{flag}" for flag in ("detailed_debug", "debug") if with_dashes(flag) in args]
        debug = model.env.get("LITELLM_LOG", "").upper() == "DEBUG"
        return [*found, *(["env.LITELLM_LOG"] if debug else [])]

    def container(self, model: Model, run: Run) -> Container:
        """Return the proxy on port 4000.

        The shell exports the models' keys into its environment. Clients' keys are in a file.
        """
        exports = {f"UPSTREAM_KEY_{index}": up.key_file for index, up in enumerate(run.upstreams) if up.key_file}
        entries = [
            {
                "model_name": served,
                "litellm_params": {
                    **model_and_address(upstream, served),
                    "api_key": f"os.environ/UPSTREAM_KEY_{index}" if upstream.key_file else "none",
                },
                "model_info": PATIENCE,
            }
            for index, upstream in enumerate(run.upstreams)
            for served in upstream.serves
        ]
        files = {"GATEWAY_API_KEY": run.api_key_file, "GATEWAY_KEYS": run.keys_file}
        keys = {variable: path for variable, path in files.items() if path}
        config: dict[str, Any] = {
            "model_list": entries,
            "router_settings": {"num_retries": 3},
            "litellm_settings": {"telemetry": False, "callbacks": ["gateway.usage"]},
            "general_settings": {"custom_auth": "gateway.keyed" if keys else "gateway.open_to_all"},
        }
        argv = ["--config", CONFIG, "--host", "0.0.0.0", "--port", str(self.port)]
        argv += flags(model.args)
        entrypoint, command = ["sh", "-c"], [START, "sh", "litellm", *argv]
        if exports:
            entrypoint, command = with_secrets(exports, [*entrypoint, *command])
        return Container(
            command,
            entrypoint,
            {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "DISABLE_ADMIN_UI": "True", "GATEWAY_HOST_KEY": HOST_KEY, **keys},
            files={
                CONFIG: yaml.dump(config, Dumper=_Plain, sort_keys=False),
                GATEWAY: read_text("files/litellm_gateway.py"),
            },
        )

    def started_by(self, command: Sequence[str]) -> tuple[Mapping[str, str], Sequence[str]]:
        """Return the server behind START."""
        return {}, command[4:] if list(command[:4]) == ["sh", "-c", START, "sh"] else command

    def upstreams_of(self, config: Any) -> Sequence[ConfiguredUpstream]:
        """Return the entries of `model_list`. Raises ValueError."""
        try:
            listed = [(entry["model_name"], entry["litellm_params"]) for entry in config["model_list"]]
            keys = [str(params.get("api_key") or "").partition("os.environ/")[2] for _, params in listed]
        except (AttributeError, LookupError, TypeError):
            raise ValueError("its model_list cannot be read") from None
        return [
            ConfiguredUpstream(str(name), str(params.get("api_base") or ""), key)
            for (name, params), key in zip(listed, keys, strict=True)
        ]

    def check(self, model: Model) -> list[Problem]:
        """Also check that it connects to a model."""
        problems = super().check(model)
        if not model.connects_to:
            problems.append(Problem.of("connects-to-missing", path="connects_to", entries="the models to serve"))
        return problems

    def serves(self, model: Model, served_name: str) -> list[str]:
        """Return nothing: clients use the names of the models behind it, its own is for `connects_to` only."""
        return []
