"""Open WebUI: the web page for people, on models or a gateway.

Sources (Open WebUI 0.12.4): without ENABLE_PERSISTENT_CONFIG=False the environment is ignored after the first start;
/health is always true, /ready tells; start.sh makes a secret for sessions beside itself unless WEBUI_SECRET_KEY_FILE
names a place that survives; OPENAI_API_BASE_URLS and OPENAI_API_KEYS are lists joined by ";" of the same length;
people log in with accounts of its own, the first one is the administrator.
"""

from typing import ClassVar

from gpurack.engines.base import NO_CARDS, Accelerator, Container, Engine, Finding, Run, with_secrets
from gpurack.spec.model import Model

DATA = "/app/backend/data"


class OpenWebui(Engine):
    """The official image; accounts and chats in a volume of its own."""

    name = "open-webui"
    port = 8080
    base_path = ""
    ready_path = "/ready"
    ready_names_model = False
    service = True
    fields = frozenset({"connects_to"})
    unused: ClassVar = {
        **NO_CARDS,
        "api_key": "people log in there; the keys of what it connects to are handed on.",
        "args": "its settings are variables, in env.",
    }

    def image(self, version: str, accelerator: Accelerator) -> str:
        """`version` is upstream's number ("0.12.4")."""
        return f"ghcr.io/open-webui/open-webui:v{version}"

    def container(self, model: Model, run: Run) -> Container:
        """All by environment; ollama is spoken to in its own way, everything else as OpenAI."""
        openai = [upstream for upstream in run.upstreams if upstream.engine != "ollama"]
        ollama = [upstream.url.removesuffix("/v1") for upstream in run.upstreams if upstream.engine == "ollama"]
        environment = {
            "ENABLE_PERSISTENT_CONFIG": "False",
            "OFFLINE_MODE": "True",
            "WEBUI_SECRET_KEY_FILE": f"{DATA}/.webui_secret_key",
            "ENABLE_OPENAI_API": str(bool(openai)),
            "OPENAI_API_BASE_URLS": ";".join(upstream.url for upstream in openai),
            "ENABLE_OLLAMA_API": str(bool(ollama)),
            "OLLAMA_BASE_URLS": ";".join(ollama),
        }
        volumes = {f"open-webui-{run.name}": DATA}
        keys = [upstream.key_file for upstream in openai]
        if not any(keys):
            return Container(
                environment={**environment, "OPENAI_API_KEYS": ";".join("" for _ in keys)}, volumes=volumes
            )
        entrypoint, command = with_secrets({"OPENAI_API_KEYS": keys}, ["bash", "start.sh"])
        return Container(command, entrypoint, environment, volumes)

    def check(self, model: Model) -> list[Finding]:
        """Also: something to talk to."""
        findings = super().check(model)
        if not model.connects_to:
            findings.append(("connects_to", 'is missing: the models or gateways people talk to, or "all".'))
        return findings
