"""The Compose project: YAML that Compose and any other reader loads as the same data."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gpurack import paths
from gpurack.engines.args import flags
from gpurack.engines.container import Accelerator
from gpurack.facts.model import HostFacts
from gpurack.plan import offline
from gpurack.plan.models import addresses, compatibility, compose, images, weights
from gpurack.plan.models.desired import desire, digest
from gpurack.plan.models.observed import Observed
from gpurack.plan.models.slots import slots_of
from gpurack.plan.system.gpu_access import access
from gpurack.spec.host import Host
from tests.given import SALT, host_state, models, spec, uuid

SERVICES_OF_MODELS = sorted((Path(__file__).parent / "services").glob("*.json"))


@pytest.mark.parametrize("path", SERVICES_OF_MODELS, ids=lambda path: path.stem)
def test_model_becomes_exact_service(path: Path) -> None:
    case = json.loads(path.read_text())
    wanted = spec({**case.get("host", {}), "models": {"alpha": case["model"]}})
    facts = host_state(gpus=4, **case.get("state", {}))
    uuids = tuple(uuid(card) for card in case.get("cards", []))
    assert desire("alpha", wanted, facts, uuids).service == case["service"]


# --- the file --------------------------------------------------------------------------------------------------------

AWKWARD = [
    "1e6", "1_000", "0x1f", "017", "1.20", ".5", "yes", "No", "on", "off", "y", "true", "null", "~", "", " ", "- a",
    "a: b", "#x", "$HOME", "${A:-b}", "$$", "a$", "größe", "模型", "🦙", "\u2028", "\x85", "\x07", "'", '"', "\\",
    "a\nb\n", "\t", "@x", "`x`", "!!int 1", "&a", "*a", "2026-11-20", "<<", "=", "?", "%", "{}", "[]", "|", ">",
]  # fmt: skip
TEXTS = st.sampled_from(AWKWARD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
DATA = st.recursive(
    TEXTS | st.integers(-(10**6), 10**6) | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
NAMES = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,8}", fullmatch=True) | st.sampled_from(["yes", "1e6", "on", "07"])
SERVICES = st.dictionaries(NAMES, st.dictionaries(TEXTS, DATA, max_size=3), max_size=3)


def loaded(text: str) -> Any:
    """The data as Compose reads them: YAML, with `$$` in values as `$`."""
    return compose.unescaped(yaml.safe_load(text))


@given(SERVICES)
def test_document_loads_as_same_data(services: dict[str, dict[str, Any]]) -> None:
    assert loaded(compose.document(services))["services"] == services


@given(SERVICES)
def test_reads_and_writes_existing_file_unchanged(services: dict[str, dict[str, Any]]) -> None:
    text = compose.document(services)
    old = compose.old_services(host_state(files={paths.compose_file(""): text}))
    assert old == services
    assert compose.document(old) == text


@given(SERVICES, st.randoms())
def test_order_of_models_does_not_change_file(services: dict[str, Any], random: Any) -> None:
    names = list(services)
    random.shuffle(names)
    assert compose.document({name: services[name] for name in names}) == compose.document(services)


@pytest.mark.parametrize("text", AWKWARD)
def test_quotes_strings_and_escapes_dollars(text: str) -> None:
    written = compose.document({"alpha": {"command": ["--flag", text]}})
    (line,) = [line for line in written.split("\n") if line.startswith("    - ") and "flag" not in line]
    assert re.fullmatch(r'    - ".*"', line)
    assert not re.search(r"(?<!\$)\$(?!\$)", line.replace("$$", ""))
    assert loaded(written)["services"]["alpha"]["command"][1] == text


def test_escapes_dollar_in_values_but_not_in_keys() -> None:
    written = compose.document({"alpha": {"environment": {"A$B": "$C"}}})
    assert yaml.safe_load(written)["services"]["alpha"]["environment"] == {"A$B": "$$C"}


def test_empty_host_has_empty_project() -> None:
    assert yaml.safe_load(compose.document({})) == {"name": "gpurack", "services": {}}


def test_header_names_gpurack() -> None:
    assert compose.document({}).splitlines()[:2] == [
        "# Written by gpurack from the inventory, which is where changes belong: this file is replaced at the next "
        "run.",
        "# To look around: docker logs NAME, docker restart NAME, docker compose -f /etc/gpurack/compose.yaml ps.",
    ]


def test_lists_secrets_and_volumes_at_top_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPURACK_TEST_KEY", "sk-live-1234")
    key = {"env": "GPURACK_TEST_KEY"}
    wanted = models(alpha={"api_key": key}, beta={"engine": "vllm", "weights": "/w/qwen", "gpus": [0], "api_key": key})
    facts = host_state(gpus=1)
    services = {
        "alpha": desire("alpha", wanted, facts, ()).service,
        "beta": desire("beta", wanted, facts, (uuid(0),)).service,
    }
    data = loaded(compose.document(services))
    assert data["secrets"] == {
        "alpha_api_key": {"file": "/etc/gpurack/secrets/alpha/api_key"},
        "beta_api_key": {"file": "/etc/gpurack/secrets/beta/api_key"},
    }
    assert data["volumes"] == {"vllm-cache": {}}
    assert "sk-live-1234" not in compose.document(services)


@pytest.mark.parametrize(
    "text",
    ["", "services", "- a", "services: []", "services: {alpha: }", "services: {1: {image: x}}", "a: b: c", "\x00", "{"],
)
def test_invalid_compose_file_has_no_services(text: str) -> None:
    old = compose.old_services(host_state(files={paths.compose_file(""): text}))
    assert old in ({}, {"1": {"image": "x"}})
    compose.document(old)


@pytest.mark.parametrize(
    "over",
    [
        {"secrets": ["own"]},
        {"volumes": ["cache:/cache", {"type": "tmpfs", "target": "/t"}]},
        {"labels": ["lab=7", "bare"]},
        {"labels": None},
        {"secrets": None, "volumes": None, "environment": ["A=1"]},
        {"restart": None, "deploy": None},
    ],
    ids=json.dumps,
)
def test_compose_field_accepts_all_settings(over: dict[str, Any]) -> None:
    wanted = models(alpha={"compose": over})
    facts = host_state()
    data = desire("alpha", wanted, facts, (), {}, SALT).labelled
    assert set(data["labels"]) >= {"gpurack.model", "gpurack.probe"}
    assert loaded(compose.document({"alpha": data}))["services"]["alpha"] == data
    for key, value in over.items():
        if key not in ("labels", "volumes"):
            assert data.get(key) == value
    if "volumes" in over:
        weights = desire("alpha", models(alpha={}), facts, ()).service["volumes"]
        assert data.get("volumes") == (over["volumes"] and [*weights, *over["volumes"]])
    if over.get("labels"):
        assert data["labels"]["lab"] == "7"
        assert data["labels"]["bare"] == ""


def test_adds_mounts_of_compose_and_replaces_same_target() -> None:
    def sources(*volumes: Any) -> list[Any]:
        data = desire("alpha", models(alpha={"compose": {"volumes": list(volumes)}}), host_state(), ()).service
        return [mount["source"] if isinstance(mount, dict) else mount for mount in data["volumes"]]

    assert sources("/t:/t:ro") == ["/w/a.gguf", "/t:/t:ro"]
    assert sources({"type": "bind", "source": "/b.gguf", "target": "/weights/a.gguf"}) == ["/b.gguf"]
    assert sources("/b.gguf:/weights/a.gguf") == ["/b.gguf:/weights/a.gguf"]


def test_passes_vram_percent_without_size_of_gpu() -> None:
    entry = {"engine": "vllm", "version": "0.8.5", "weights": "/w/m", "gpus": [0], "vram": "30%"}
    text = compose.unescaped(yaml.safe_load(offline.compose_text(models(alpha=entry))))
    command = text["services"]["alpha"]["command"]
    assert command[command.index("--gpu-memory-utilization") + 1] == "0.300"


# --- the label -------------------------------------------------------------------------------------------------------


def definition(spec: Host, key: str | None = None, salt: str = SALT, facts: HostFacts | None = None) -> dict[str, Any]:
    return desire(
        "alpha", spec, facts or host_state(gpus=1), (uuid(0),), {"api_key": key} if key else {}, salt
    ).definition


def test_label_is_definition_without_secrets() -> None:
    words = definition(models(alpha={"gpus": [0], "args": {"threads": 16}, "env": {"A": "1"}}), "sk-live-1234")
    assert {key: words[key] for key in words if key not in ("service", "api_key")} == {
        "engine": "llama.cpp", "version": "b7000", "image": "ghcr.io/ggml-org/llama.cpp:server-cuda-b7000",
        "weights": "/w/a.gguf", "gpus": "[0]", "uuids": [uuid(0)], "port": 8000, "bind": "loopback",
        "served_name": "alpha", "args": {"threads": 16}, "env": {"A": "1"},
    }  # fmt: skip
    assert "sk-live-1234" not in json.dumps(words)
    assert words["api_key"].startswith(f"{SALT}:")


def test_fingerprint_depends_on_key_and_salt() -> None:
    wanted = models(alpha={"gpus": [0]})
    same, again = definition(wanted, "one")["api_key"], definition(wanted, "one")["api_key"]
    other, salted = definition(wanted, "two")["api_key"], definition(wanted, "one", "0" * 32)["api_key"]
    assert same == again
    assert len({same, other, salted}) == 3
    assert "api_key" not in definition(wanted, None)


@given(DATA, DATA)
def test_digest_distinguishes_data(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (digest(one) == digest(other)) is same


# --- pieces ----------------------------------------------------------------------------------------------------------

MIRRORS = spec({"mirrors": {"ghcr.io": "mirror:5000/ghcr/", "docker.io": "mirror:5000/hub"}})


@pytest.mark.parametrize(
    ("reference", "mirrored"),
    [
        ("ghcr.io/a/b:1", "mirror:5000/ghcr/a/b:1"),
        (f"ghcr.io/a/b@sha256:{'0' * 64}", f"mirror:5000/ghcr/a/b@sha256:{'0' * 64}"),
        ("a/b:1", "mirror:5000/hub/a/b:1"),
        ("ubuntu:24.04", "mirror:5000/hub/library/ubuntu:24.04"),
        ("ubuntu", "mirror:5000/hub/library/ubuntu"),
        ("docker.io/a/b", "mirror:5000/hub/a/b"),
        ("quay.io/a/b", "quay.io/a/b"),
        ("localhost/a", "localhost/a"),
        ("localhost:5000/a", "localhost:5000/a"),
        ("registry.lab:5000/a/b:1", "registry.lab:5000/a/b:1"),
    ],
)
def test_image_uses_mirror(reference: str, mirrored: str) -> None:
    assert images.mirrored(MIRRORS, reference) == mirrored
    assert images.mirrored(Host(), reference) == reference


@pytest.mark.parametrize(
    ("version", "cdi"),
    [
        ("", True),
        ("20.10.24", False),
        ("24.0.9", False),
        ("25.0.0", True),
        ("28.5.2", True),
        ("dev", True),
        ("29-rc1", True),
    ],
)
def test_uses_cdi_from_docker_25(version: str, cdi: bool) -> None:
    assert access(models(alpha={}), host_state(docker={"ServerVersion": version})) == ("cdi" if cdi else "runtime")


@pytest.mark.parametrize(
    ("bind", "address", "url"),
    [
        ("loopback", "127.0.0.1", "http://127.0.0.1:8000/v1/models"),
        ("any", "0.0.0.0", "http://127.0.0.1:8000/v1/models"),
        ("lan", "10.0.0.7", "http://10.0.0.7:8000/v1/models"),
        ("10.1.2.3", "10.1.2.3", "http://10.1.2.3:8000/v1/models"),
        ("::", "::", "http://[::1]:8000/v1/models"),
        ("fd00::7", "fd00::7", "http://[fd00::7]:8000/v1/models"),
    ],
)
def test_resolves_listen_and_probe_addresses(bind: str, address: str, url: str) -> None:
    facts = host_state()
    assert addresses.address(bind, facts) == address
    assert addresses.probe_url(Observed("alpha", models(alpha={"bind": bind}), facts)) == url


def test_lan_has_no_address_without_default_route() -> None:
    """Before, it meant every address; see tests/security/test_exposure.py."""
    assert addresses.address("lan", host_state(address="")) == ""


@pytest.mark.parametrize(
    ("path", "mounted"),
    [
        ("/data/m.gguf", ("/data/m.gguf", "/weights/m.gguf", "/weights/m.gguf")),
        ("/data/m-00001-of-00003.gguf", ("/data", "/weights", "/weights/m-00001-of-00003.gguf")),
        ("/data/m-1-of-3.gguf", ("/data/m-1-of-3.gguf", "/weights/m-1-of-3.gguf", "/weights/m-1-of-3.gguf")),
        ("/data/qwen", ("/data/qwen", "/weights/qwen", "/weights/qwen")),
    ],
)
def test_mounts_folder_of_split_gguf(path: str, mounted: tuple[str, str, str]) -> None:
    assert weights.mount(path) == mounted


def test_resolves_path_of_fetched_weights() -> None:
    url = {"url": "https://hf.example/x/model.gguf?download=1", "sha256": "ab" * 32}
    wanted = models(alpha={"weights": url}, beta={"weights": "/w/b.gguf"}, gamma={"weights": url, "enabled": False})
    assert weights.paths(wanted) == ["/var/lib/gpurack/weights/abababababababab-model.gguf", "/w/b.gguf"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({}, []),
        ({"c": 4096, "metrics": True, "lora": ["a", "b"]}, ["-c", "4096", "--metrics", "--lora", "a", "--lora", "b"]),
        ({"mlock": False, "temp": 0.5}, ["--temp", "0.5"]),
        ({"chat-template": "a b $c"}, ["--chat-template", "a b $c"]),
        ({"lora": []}, []),
        ({"seed": 0, "n": 1}, ["--seed", "0", "-n", "1"]),
    ],
)
def test_args_become_flags(args: dict[str, Any], words: list[str]) -> None:
    assert flags(args) == words


def test_some_engines_use_one_dash_for_long_flags() -> None:
    assert flags({"ngl": 20, "n-gpu-layers": 20}, {"ngl"}) == ["-ngl", "20", "--n-gpu-layers", "20"]


@pytest.mark.parametrize(
    ("computes", "lowest"),
    [(["8.0", "9.0"], "8.0"), (["10.0", "8.9"], "8.9"), (["[N/A]", "8.6"], "8.6"), (["[N/A]"], None), ([], None)],
)
def test_finds_lowest_compute_capability(computes: list[str], lowest: str | None) -> None:
    facts = host_state(gpus=len(computes))
    cards = tuple(
        type(card)(**{**card.__dict__, "compute": compute}) for card, compute in zip(facts.gpus, computes, strict=True)
    )
    facts = HostFacts(gpus=cards)
    model = models(alpha={"gpus": "all"}).models["alpha"]
    slots = slots_of([card.uuid for card in cards], facts)
    assert compatibility.accelerator(model, slots, "amd64") == Accelerator("nvidia", lowest)
