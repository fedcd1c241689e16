"""What works but may hurt one day. Pure; shown by `gpurack plan`, and errors with `--strict`."""

from collections.abc import Mapping

from gpurack.endpoints import on_loopback
from gpurack.engines import ENGINES
from gpurack.engines.known_flags import is_known_version, unknown_flags
from gpurack.spec.cards import CARDS
from gpurack.spec.model import HfWeights, Host, Model, ModelScopeWeights
from gpurack.spec.problems import Problem, unknown
from gpurack.spec.seats import hardware
from gpurack.spec.secret_names import holds_secret

FLOATING = ("latest", "main", "main-stable", "server", "server-cuda", "full", "light")


def warnings(fleet: Mapping[str, Host]) -> list[Problem]:
    """All warnings of a fleet, in order of hosts."""
    found = []
    for name, host in fleet.items():
        for key, model in host.entries.items():
            if model.enabled:
                kind = "models" if key in host.models else "services"
                found += [Problem(name, f"{kind}.{key}", what) for what in of_model(model)]
        hub = host.mirrors.get("huggingface")
        if host.hf_token and hub and hub.url.startswith("http://"):
            found.append(Problem(name, "mirrors.huggingface", "is http://, so hf_token goes there for all to read."))
        if host.wants_gpu and not hardware(host):
            found.append(Problem(name, "hardware", 'is not given, so cards cannot be checked; write {"A30": 4}.'))
        for card in host.hardware:
            if card not in CARDS:
                what = unknown("card", card, list(CARDS)) + " Its memory is not checked."
                found.append(Problem(name, "hardware", what))
        found += [
            Problem(name, f"models.{key}.gpus", "is not given, so it runs on the CPU; write [] if that is meant.")
            for key, model in host.models.items()
            if model.enabled and host.hardware and "gpus" not in model.model_fields_set
        ]
    return found


def of_model(model: Model) -> list[str]:
    """The warnings of one model."""
    found = []
    if ENGINES[model.engine].legacy:
        found.append(f"{model.engine} is legacy: {ENGINES[model.engine].legacy}")
    keyless = model.api_key is None and not model.keys
    if not on_loopback(model.bind) and keyless and "api_key" not in ENGINES[model.engine].unused:
        found.append("no key, open to everybody who reaches the host (api_key: null).")
    if isinstance(model.weights, str):
        found.append("its weights have no source; a rebuild of the host cannot bring them back.")
    if isinstance(model.weights, HfWeights | ModelScopeWeights) and model.weights.revision is None:
        found.append("its weights follow a branch; give a revision to get the same ones again.")
    if isinstance(model.image, str) and floating(model.image):
        found.append(f"image {model.image} floats: its tag can be another image tomorrow; name a version or a digest.")
    if model.vram is not None and model.gpus and not ENGINES[model.engine].enforces_vram:
        found.append(f"{model.engine} does not enforce vram; {model.vram} is a promise.")
    # the path of a file that holds it is none
    found += [
        f"env.{name} is a secret in plain text, in the inventory and in docker inspect; {remedy(name)}"
        for name, value in model.env.items()
        if value and not value.startswith("/") and holds_secret(name, value)
    ]
    if not is_known_version(model):
        found += [f"args.{flag}: {what} {model.version or 'The image'} may." for flag, what in unknown_flags(model)]
    return found


def remedy(variable: str) -> str:
    """Where the value of a variable that holds a secret belongs."""
    if variable.startswith(("HF_", "HUGGING")):
        return "hf_token of the host fetches weights with it."
    return 'clients\' keys belong into api_key, others into a file on the host: compose: {"env_file": ["/…"]}.'


def floating(image: str) -> bool:
    """Does a reference name no fixed image? No tag means latest.

    >>> floating("vllm/vllm-openai"), floating("a/b:1.2"), floating("a/b@sha256:0")
    (True, False, False)
    """
    if "@" in image:
        return False
    tag = image.rsplit("/", 1)[-1].partition(":")[2]
    return not tag or tag in FLOATING
