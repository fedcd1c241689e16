"""llama-gpt's web UI for a model of llama-cpp-python. Legacy: use open-webui.

Sources: getumbrel/llama-gpt (last commit in October 2023), docker-compose.yml and ui/Dockerfile. The page waits for
WAIT_HOSTS, asks the model once and then serves port 3000. DEFAULT_MODEL is used only if it is in the page's own list
(ui/types/openai.ts). Otherwise the page asks for the first model of that list, so its model must answer to any name.
OPENAI_API_HOST has no /v1. The page has no login. The old API server beside it (llama-cpp-python 0.1.78) reads only
GGML files and is not used here.
"""

from collections.abc import Sequence
from typing import ClassVar
from urllib.parse import urlsplit

from gpurack.engines.base import RUNS_NO_MODEL, Engine, Request, Row
from gpurack.engines.container import Accelerator, Container, Run, with_secrets
from gpurack.engines.dialect import CONNECTS_TO, Dialect
from gpurack.engines.hints import Hint
from gpurack.spec.model import Model
from gpurack.spec.problems import Problem

START = "/wait && node ping-api-to-load-model.js && npm start"
"""The image's own CMD, which Compose drops when it replaces the entry point."""
WAIT_SECONDS = "600"


class LlamaGpt(Engine):
    """The web UI. Its model is another entry."""

    name = "llama-gpt"
    title = "llama-gpt"
    row = Row(
        serves="a web UI from 2023",
        image="`getumbrel/llama-gpt-ui:latest`",
        gpus="–",
        key="**none**",
        sets="address and name of its one model",
        limits="**legacy**: use `open-webui`",
        state="stand-in",
    )
    dialect = Dialect(
        images="llama-gpt-ui",
        programs=(("sh", "-c", START),),
        variables={
            "OPENAI_API_HOST": CONNECTS_TO,
            "OPENAI_API_KEY": "gpurack gives it the key of the model it connects to",
            "DEFAULT_MODEL": "gpurack sets it to the name of the model it connects to",
            "WAIT_HOSTS": "it waits for the model it connects to",
            "WAIT_TIMEOUT": "it waits for the model it connects to, 600 seconds",
        },
    )
    hints = (
        Hint(
            r"some hosts are still not reachable|getaddrinfo (ENOTFOUND|EAI_AGAIN)|connect ECONNREFUSED",
            "The model that it connects to does not answer. Check that model, and whether `env` names another address.",
        ),
    )
    port = 3000
    base_path = ""
    ready_path = "/"
    ready_names_model = False
    keyless = True
    service = True
    only_version = "latest"
    successor = "open-webui"
    legacy = f"its last release is from 2023. Use {successor}, its successor."
    no_weights = "; its model is an entry of llama-cpp-python that it connects_to"
    fields = frozenset({"connects_to"})
    unused: ClassVar = {**RUNS_NO_MODEL, "args": "Its settings are environment variables: use `env`."}

    def image(self, version: str, accelerator: Accelerator) -> str:
        """Return the only image, from 2023."""
        return f"getumbrel/llama-gpt-ui:{version}"

    def container(self, model: Model, run: Run) -> Container:
        """Return the web UI, which waits for its model."""
        if not run.upstreams:
            return Container()
        upstream = run.upstreams[0]
        url = urlsplit(upstream.url)
        environment = {
            "OPENAI_API_HOST": f"{url.scheme}://{url.netloc}",
            "DEFAULT_MODEL": upstream.serves[0],
            "WAIT_HOSTS": f"{url.hostname}:{url.port or 80}",
            "WAIT_TIMEOUT": WAIT_SECONDS,
        }
        if upstream.key_file is None:
            return Container(environment={"OPENAI_API_KEY": "none", **environment})
        entrypoint, command = with_secrets({"OPENAI_API_KEY": upstream.key_file}, ["sh", "-c", START])
        return Container(command, entrypoint, environment)

    def cannot_use(self, name: str, engine: Engine) -> str | None:
        """It requests a model of its own list, so it needs an engine that ignores the name."""
        if engine.service is not False:
            return f"{name} is not a model, and llama-gpt shows one model."
        if engine.any_name:
            return None
        asks = "llama-gpt requests a model from its own list of 2023"
        return f"{asks}, which {engine.name} refuses. Name one of llama-cpp-python, or use open-webui, its successor."

    def requests(self, model: Model, names: Sequence[str]) -> list[Request]:
        """Return no test request, because it serves a web page."""
        return []

    def check(self, model: Model) -> list[Problem]:
        """Also check that it connects to one model."""
        problems = super().check(model)
        if model.connects_to == "all" or len(model.connects_to) != 1:
            problems.append(Problem.of("one-model-only", path="connects_to"))
        return problems
