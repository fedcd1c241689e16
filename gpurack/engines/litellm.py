"""LiteLLM: one OpenAI address for the models of the lab.

Sources (LiteLLM 1.109.1): it runs without a database from a YAML file; entries of the same name share the load;
`os.environ/NAME` in that file is read from the environment; LITELLM_MASTER_KEY is the key clients send; /health calls
every model, so /health/readiness is asked; LITELLM_LOCAL_MODEL_COST_MAP keeps it from fetching its price list. Keys of
people and groups need a database, which gpurack does not set up yet.
"""

from typing import Any, ClassVar

import yaml

from gpurack.engines.base import NO_CARDS, Accelerator, Container, Engine, Finding, Run, with_secrets
from gpurack.spec.model import Model

CONFIG = "/etc/litellm.yaml"
PROVIDERS = {"vllm": "hosted_vllm"}
"""Engine → what LiteLLM calls it; everything else speaks OpenAI. Only by its own name does it rerank through vLLM."""


class Litellm(Engine):
    """`litellm --config`, from a file gpurack writes."""

    name = "litellm"
    port = 4000
    ready_path = "/health/readiness"
    ready_names_model = False
    service = True
    fields = frozenset({"connects_to"})
    unused = NO_CARDS
    own_args: ClassVar = {"config": "connects_to", "port": "port", "host": "bind", "model": "connects_to"}

    def image(self, version: str, accelerator: Accelerator) -> str:
        """`version` as in upstream's tags, without "main-v" ("1.109.1", "1.81.14-stable")."""
        return f"docker.litellm.ai/berriai/litellm:main-v{version}"

    def container(self, model: Model, run: Run) -> Container:
        """The proxy on port 4000, keys by environment of its own making."""
        exports: dict[str, str] = {}
        entries = []
        for index, upstream in enumerate(run.upstreams):
            variable = f"UPSTREAM_KEY_{index}"
            if upstream.key_file:
                exports[variable] = upstream.key_file
            entries.append(
                {
                    "model_name": upstream.served_name,
                    "litellm_params": {
                        "model": f"{PROVIDERS.get(upstream.engine, 'openai')}/{upstream.served_name}",
                        "api_base": upstream.url,
                        "api_key": f"os.environ/{variable}" if upstream.key_file else "none",
                    },
                }
            )
        config: dict[str, Any] = {"model_list": entries, "litellm_settings": {"telemetry": False}}
        if run.api_key_file:
            exports["LITELLM_MASTER_KEY"] = run.api_key_file
            config["general_settings"] = {"master_key": "os.environ/LITELLM_MASTER_KEY"}
        argv = ["--config", CONFIG, "--host", "0.0.0.0", "--port", str(self.port)]
        for flag, value in model.args.items():
            argv += [f"--{flag}", *([] if value is True else [str(value)])]
        environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        files = {CONFIG: yaml.safe_dump(config, sort_keys=False)}
        if not exports:
            return Container(argv, environment=environment, files=files)
        entrypoint, command = with_secrets(exports, ["litellm", *argv])
        return Container(command, entrypoint, environment, files=files)

    def check(self, model: Model) -> list[Finding]:
        """Also: something to hand on to, and no open door to keyed models."""
        findings = super().check(model)
        if not model.connects_to:
            findings.append(("connects_to", 'is missing: the models it hands on to, or "all".'))
        return findings
