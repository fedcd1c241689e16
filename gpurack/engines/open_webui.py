"""Open WebUI: a web UI for models or a gateway.

Sources (Open WebUI 0.12.4): without ENABLE_PERSISTENT_CONFIG=False, the environment is ignored after the first start.
/health is always true; /ready tells whether it is ready. start.sh creates a secret for sessions in its own folder
unless WEBUI_SECRET_KEY_FILE names a persistent path. OPENAI_API_BASE_URLS and OPENAI_API_KEYS are lists of the same
length, joined by ";". Users log in with accounts of its own. The first account becomes the administrator, also with
ENABLE_SIGNUP=False (signing up needs no permission while there is no account). WEBUI_ADMIN_EMAIL and
WEBUI_ADMIN_PASSWORD create that account at the first start, and have no effect later. With WEBUI_AUTH=False there are
no accounts. AUDIT_LOG_LEVEL=REQUEST writes users' requests to audit.log, GLOBAL_LOG_LEVEL=DEBUG to the log. A newer
version changes the database at its first start (Alembic, in webui.db, with a -wal beside it), and there is no way back.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from gpurack.engines.base import RUNS_NO_MODEL, Engine, Request, Row
from gpurack.engines.container import Accelerator, Container, Run, with_secrets
from gpurack.engines.dialect import CONNECTS_TO, OWN_VOLUME, Dialect
from gpurack.engines.hints import DATABASE, Hint
from gpurack.spec.model import Model
from gpurack.spec.problems import Problem

DATA = "/app/backend/data"
FIRST_ACCOUNT = (
    "import json,os,sys; e=os.environ; e['WEBUI_ADMIN_PASSWORD']=json.load(open(sys.argv[1]))[e['WEBUI_ADMIN_EMAIL']]; "
    "os.execvp(sys.argv[2],sys.argv[2:])"
)


def volume(name: str) -> str:
    """Return the name of the volume with an entry's accounts and chats."""
    return f"open-webui-{name}"


UNCLAIMED = (
    "the first visitor of the page becomes its administrator. Give the first account in `keys`: "
    '{"admin@uni.example": {"env": "PASSWORD"}}, or write `bind: loopback`.'
)


def _is_unclaimed(model: Model) -> bool:
    """Does it have accounts, but no first account from the inventory (by `keys` or variables)?"""
    given = model.keys or all(model.env.get(name) for name in ("WEBUI_ADMIN_EMAIL", "WEBUI_ADMIN_PASSWORD"))
    return not given and model.env.get("WEBUI_AUTH", "True").lower() == "true"


class OpenWebui(Engine):
    """The official image, with accounts and chats in a volume of its own."""

    name = "open-webui"
    title = "Open WebUI"
    row = Row(
        serves="a web UI",
        image="`ghcr.io/open-webui/open-webui:v0.12.4`",
        gpus="–",
        key="users log in",
        sets="addresses and keys, persistent volume",
        limits="a service",
        state="**real program**",
    )
    dialect = Dialect(
        images="open-webui",
        programs=(("bash", "start.sh"),),
        variables={
            "OPENAI_API_BASE_URL": CONNECTS_TO, "OPENAI_API_BASE_URLS": CONNECTS_TO,
            "OLLAMA_BASE_URL": CONNECTS_TO, "OLLAMA_BASE_URLS": CONNECTS_TO,
            "OPENAI_API_KEY": "gpurack gives it the keys of what it connects to",
            "OPENAI_API_KEYS": "gpurack gives it the keys of what it connects to",
            "PORT": "gpurack sets the port",
            "WEBUI_SECRET_KEY": "it generates its own, in its volume",
        },
        first_account=("WEBUI_ADMIN_EMAIL", "WEBUI_ADMIN_PASSWORD"),
        caches={DATA: OWN_VOLUME + "; copy accounts and chats if they are needed"},
    )  # fmt: skip
    hints = (
        Hint(
            r"Could not parse SQLAlchemy URL|unable to open database file|Redis URL must specify"
            r"|Unsupported vector type",
            DATABASE,
        ),
    )
    port = 8080
    base_path = ""
    ready_path = "/ready"
    ready_names_model = False
    service = True
    hash_client_keys = False
    fields = frozenset({"connects_to", "keys"})
    unused: ClassVar = {
        **RUNS_NO_MODEL,
        "api_key": "Users log in to it; it passes on the keys of what it connects to.",
        "args": "Its settings are environment variables: use `env`.",
    }

    def image(self, version: str, accelerator: Accelerator) -> str:
        """Return the image. `version` is upstream's number ("0.12.4")."""
        return f"ghcr.io/open-webui/open-webui:v{version}"

    def container(self, model: Model, run: Run) -> Container:
        """Return a container with all settings as variables.

        ollama is used by its own API, everything else by OpenAI's.
        """
        openai = [upstream for upstream in run.upstreams if upstream.api != "ollama"]
        ollama = [upstream.url.removesuffix("/v1") for upstream in run.upstreams if upstream.api == "ollama"]
        environment = {
            "ENABLE_PERSISTENT_CONFIG": "False",
            "OFFLINE_MODE": "True",
            "WEBUI_SECRET_KEY_FILE": f"{DATA}/.webui_secret_key",
            "ENABLE_OPENAI_API": str(bool(openai)),
            "OPENAI_API_BASE_URLS": ";".join(upstream.url for upstream in openai),
            "ENABLE_OLLAMA_API": str(bool(ollama)),
            "OLLAMA_BASE_URLS": ";".join(ollama),
        }
        volumes = {volume(run.name): DATA}
        keys = [upstream.key_file for upstream in openai]
        if not any(keys):
            environment["OPENAI_API_KEYS"] = ";".join("" for _ in keys)
        exports: dict[str, Any] = {"OPENAI_API_KEYS": keys} if any(keys) else {}
        argv = ["bash", "start.sh"]
        if run.keys_file:
            environment["WEBUI_ADMIN_EMAIL"] = next(iter(model.keys))
            argv = ["python3", "-c", FIRST_ACCOUNT, run.keys_file, *argv]
        if not exports:
            return Container(argv if run.keys_file else None, [] if run.keys_file else None, environment, volumes)
        entrypoint, command = with_secrets(exports, argv)
        return Container(command, entrypoint, environment, volumes)

    def started_by(self, command: Sequence[str]) -> tuple[Mapping[str, str], Sequence[str]]:
        """Return the server behind FIRST_ACCOUNT, and the account's password."""
        if list(command[:3]) != ["python3", "-c", FIRST_ACCOUNT]:
            return {}, command
        return {"WEBUI_ADMIN_PASSWORD": f"$(cat {command[3]})"}, command[4:]

    def requests(self, model: Model, names: Sequence[str]) -> list[Request]:
        """Return no test request, because users must log in."""
        return []

    def unclaimed(self, model: Model, name: str) -> str | None:
        """Return its own volume, unless the entry configures another database."""
        return volume(name) if _is_unclaimed(model) and not self.own_database(model) else None

    def own_database(self, model: Model) -> str | None:
        """Return the setting of another database, or of another volume instead of its own."""
        if not _is_unclaimed(model):
            return None
        if "DATABASE_URL" in model.env:
            return "env.DATABASE_URL"
        return "compose.volumes" if DATA in str(model.compose.get("volumes")) else None

    def database(self, model: Model, name: str) -> tuple[str, str] | None:
        """Return the file in its own volume, unless the entry configures another database."""
        own = "DATABASE_URL" not in model.env and DATA not in str(model.compose.get("volumes"))
        return (volume(name), "webui.db") if own else None

    def prompt_logs(self, model: Model) -> list[str]:
        """Return the audit log from level REQUEST on, and the debug log."""
        audit = model.env.get("AUDIT_LOG_LEVEL", "").upper() in ("REQUEST", "REQUEST_RESPONSE")
        debug = model.env.get("GLOBAL_LOG_LEVEL", "").upper() == "DEBUG"
        return [*(["env.AUDIT_LOG_LEVEL"] if audit else []), *(["env.GLOBAL_LOG_LEVEL"] if debug else [])]

    def check(self, model: Model) -> list[Problem]:
        """Also check that it connects to something, and has no keys but the first account."""
        problems = super().check(model)
        if not model.connects_to:
            problems.append(
                Problem.of("connects-to-missing", path="connects_to", entries="the models or gateways to use")
            )
        if len(model.keys) > 1 or not all("@" in name for name in model.keys):
            problems.append(Problem.of("first-account-only", path="keys"))
        return problems
