"""An upgrade of gpurack restarts nothing: settings that only gpurack itself changed stay, and are counted."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpurack import paths
from gpurack.engines import litellm, llama_cpp_python
from gpurack.facts.model import HostFacts
from gpurack.inventory.fleet import check_fleet
from gpurack.plan.host import preview
from gpurack.plan.models import addresses, compose
from gpurack.plan.models import service as service_module
from gpurack.plan.models.desired import desire, digest
from gpurack.plan.models.observed import Observed
from gpurack.plan.models.plan import ModelsPlan
from gpurack.plan.run import Run
from gpurack.spec.host import Host
from gpurack.verify import evidence, test_models
from tests.given import SALT, file, host_state, models, models_plan, running, said, uuid
from tests.unit.test_models_plan import actions, changes, settled
from tests.unit.verify.test_checks import CARD, drifts, entry

Service = dict[str, Any]
CASES = [*Path(__file__).parent.glob("engines/*/*.json"), *Path(__file__).parent.glob("services/*.json")]
TWO = models(alpha={"gpus": [0]}, beta={"gpus": [1], "compose": {"labels": ["team=nlp"]}})
ONE_OLDER = ("1 model runs with settings of an older gpurack. `gpurack apply --renew` recreates it.",)
OPTIONS = ["no-new-privileges:true"]


def without_options(service: Service) -> Service:
    """The service as created before no-new-privileges."""
    return {word: value for word, value in service.items() if word != "security_opt"}


def other_spelling(service: Service) -> Service:
    return {**service, "image": f"docker.io/{service['image']}"}


def older(
    spec: Host,
    change: Callable[[Service], Service] = without_options,
    of: tuple[str, ...] = ("alpha",),
    **over: Any,
) -> HostFacts:
    """The host after a run of an older gpurack that created the models `of` differently. over: of their containers."""
    state = settled(spec)
    made, containers = {}, []
    for one in state.containers:
        words = json.loads(one.labels["gpurack.model"])
        data = desire(one.name, spec, state, tuple(words["uuids"])).service
        if one.name in of:
            data = change(data)
            words |= {"service": digest(data), "image": data["image"]}
        labels = {
            "gpurack.model": json.dumps(words, sort_keys=True),
            "gpurack.probe": addresses.probe_url(Observed(one.name, spec, state)),
        }
        made[one.name] = {**data, "labels": {**dict(one.split("=") for one in data.get("labels", ())), **labels}}
        containers.append(replace(one, labels={**one.labels, **labels}, **(over if one.name in of else {})))
    text = compose.document(made)
    file = replace(state.files[paths.compose_file("")], content=text.encode())
    return replace(state, files={**state.files, paths.compose_file(""): file}, containers=tuple(containers))


def plan(spec: Host, facts: HostFacts, renew: bool = False) -> ModelsPlan:
    return models_plan(spec, facts, renew=renew)


def written(facts: HostFacts, change: Callable[[str], str]) -> HostFacts:
    """The host with a changed compose.yaml."""
    path = paths.compose_file("")
    file = facts.files[path]
    return replace(facts, files={**facts.files, path: replace(file, content=change(file.text).encode())})


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_keeps_and_counts_running_model(name: str) -> None:
    found = plan(TWO, older(TWO, of=(name,)))
    assert found.nothing
    assert actions(found) == {"alpha": "keep", "beta": "keep"}
    assert said(found.warnings) == ONE_OLDER


def test_counts_all_in_one_line() -> None:
    found = plan(TWO, older(TWO, of=("alpha", "beta")))
    assert found.nothing
    assert said(found.warnings) == (
        "2 models run with settings of an older gpurack. `gpurack apply --renew` recreates them.",
    )


def test_plan_live_shows_line_and_no_change() -> None:
    state = replace(older(TWO), cdi=frozenset({"nvidia.com/gpu=all"}))
    shown = [(each.kind, each.line) for each in preview(TWO, state, Run()).findings if "model" in each.line]
    assert shown == [("warning", ONE_OLDER[0])]


def test_says_nothing_about_up_to_date_host() -> None:
    assert plan(TWO, settled(TWO)).warnings == ()


def test_missing_new_volume_changes_nothing() -> None:
    found = plan(TWO, older(TWO, lambda service: {**service, "volumes": service["volumes"][:0]}))
    assert (found.nothing, said(found.warnings)) == (True, ONE_OLDER)


def test_other_spelling_of_image_changes_nothing() -> None:
    state = older(TWO, other_spelling)
    reference = desire("alpha", TWO, state, (uuid(0),)).image
    same = replace(state, images={reference: state.ours["", "alpha"].image})
    found = plan(TWO, same)
    assert (found.nothing, said(found.warnings)) == (True, ONE_OLDER)
    other = replace(state, images={reference: "sha256:other"})
    assert actions(plan(TWO, other))["alpha"] == "recreate"


def test_keeps_old_service_when_other_model_changes() -> None:
    state = older(TWO)
    wanted = models(alpha={"gpus": [0]}, beta={"gpus": [1], "context": 4096})
    found = plan(wanted, state)
    assert actions(found) == {"alpha": "keep", "beta": "recreate"}
    assert found.job
    blocks = found.job["projects"][""]["services"]
    assert blocks["alpha"] == found.job["projects"][""]["before"]["alpha"]
    assert "security_opt" not in blocks["alpha"]["services"]["alpha"]
    assert "security_opt" in blocks["beta"]["services"]["beta.2"]


def test_applies_new_settings_with_another_change() -> None:
    found = plan(models(alpha={"gpus": [0], "context": 4096}, beta={"gpus": [1]}), older(TWO))
    assert changes(found)["alpha"] == ": context – → 4096"
    assert found.job
    assert "security_opt" in found.job["projects"][""]["services"]["alpha"]["services"]["alpha.2"]
    assert found.warnings == ()


def test_renew_recreates_with_reasons() -> None:
    found = plan(TWO, older(TWO), renew=True)
    assert changes(found) == {"alpha": ": gpurack's own settings for this engine changed: security_opt", "beta": "keep"}
    assert actions(found)["alpha"] == "recreate"
    assert found.warnings == ()
    assert plan(TWO, settled(TWO), renew=True).nothing


def test_starts_stopped_container_unchanged() -> None:
    found = plan(TWO, older(TWO, status="exited", exit_code=137))
    assert actions(found) == {"alpha": "start", "beta": "keep"}
    assert found.job
    assert "security_opt" not in found.job["projects"][""]["services"]["alpha"]["services"]["alpha"]


def test_recreates_after_old_service_was_edited() -> None:
    """The container may have been made from the edited lines."""
    state = written(older(TWO), lambda text: text.replace(uuid(0), uuid(3)))
    assert changes(plan(TWO, state)) == {
        "alpha": ": its service in compose.yaml was edited by hand, and an older gpurack made its container",
        "beta": "keep",
    }


def test_restores_edited_service_beside_older_one() -> None:
    state = written(older(TWO), lambda text: text.replace(uuid(1), uuid(3)))
    found = plan(TWO, state)
    assert changes(found) == {"alpha": "keep", "beta": ": its service in compose.yaml was edited by hand"}
    assert actions(found)["beta"] == "start"


def without_compose_file(facts: HostFacts) -> HostFacts:
    return replace(facts, files={path: file for path, file in facts.files.items() if path != paths.compose_file("")})


def after_the_job(facts: HostFacts, found: ModelsPlan) -> HostFacts:
    """The host with the compose.yaml that a run writes."""
    assert found.job
    services = {
        name: yaml.safe_load(block["services"][name])[name]
        for name, block in found.job["projects"][""]["services"].items()
    }
    text = compose.document({name: compose.unescaped(data) for name, data in services.items()})
    return replace(facts, files={**facts.files, paths.compose_file(""): file(paths.compose_file(""), text)})


def test_rewrites_lost_compose_yaml_and_keeps_model() -> None:
    """With the lines of this gpurack, because the original ones are lost. Later runs still count the model."""
    state = without_compose_file(older(TWO))
    found = plan(TWO, state)
    assert (actions(found), said(found.warnings)) == ({"alpha": "keep", "beta": "keep"}, ONE_OLDER)
    assert found.job
    assert found.job["batches"] == []
    after = after_the_job(state, found)
    assert (plan(TWO, after).nothing, said(plan(TWO, after).warnings)) == (True, ONE_OLDER)
    renewed = plan(TWO, after, renew=True)
    assert changes(renewed) == {"alpha": ": gpurack's own settings for this engine changed", "beta": "keep"}


def test_rewritten_compose_yaml_may_be_of_an_older_gpurack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody edited those lines: their own label shows it."""
    state = without_compose_file(older(TWO))
    after = after_the_job(state, plan(TWO, state))
    monkeypatch.setattr(service_module, "NO_NEW_PRIVILEGES", "no-new-privileges=true")
    found = plan(TWO, after)
    assert actions(found) == {"alpha": "keep", "beta": "keep"}
    assert said(found.warnings) == (
        "2 models run with settings of an older gpurack. `gpurack apply --renew` recreates them.",
    )


def test_recreates_container_published_elsewhere() -> None:
    found = plan(TWO, older(TWO, ports=(("0.0.0.0", 8000),)))
    assert actions(found)["alpha"] == "recreate"


# --- what files and variables are made of: connections, and a config -------------------------------------------------

LATER = ("config", "upstreams")
WORKER: Service = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf", "bind": "lan"}
GATEWAY: Service = {"engine": "litellm", "version": "1.109.1", "port": 4000, "connects_to": ["far"]}
CHAT: Service = {"engine": "open-webui", "version": "0.12.4", "port": 3000, "connects_to": ["far"]}
SEVERAL: Service = {
    "engine": "llama-cpp-python", "version": "0.3.36", "port": 8000,
    "config": {"models": [{"model": "/w/a.gguf", "model_alias": "alpha"}]},
}  # fmt: skip
OTHER = {"models": [{"model": "/w/a.gguf", "model_alias": "alpha", "n_ctx": 2048}]}


def host(port: int = 8000, **config: Any) -> Host:
    """A gateway, a web UI and a model with a config; the model that they connect to is on another host."""
    services = {"gateway": GATEWAY, "chat": CHAT}
    gpu1 = {"models": {"several": {**SEVERAL, **config}}, "services": services}
    return check_fleet({"gpu1": [gpu1], "gpu2": [{"models": {"far": {**WORKER, "port": port}}}]})["gpu1"]


def deployed(spec: Host, lacking: tuple[str, ...] = (), environment: Mapping[str, str] | None = None) -> HostFacts:
    """The host after a run. lacking: keys that its labels do not have yet. environment: variables of chat that no other
    gpurack sets."""
    bare = host_state(weights={"/w/a.gguf": 1})
    first = plan(spec, bare)
    assert first.job
    services, containers = {}, []
    for name in spec.entries:
        made = desire(name, spec, bare, (), {}, SALT)
        words, lines = dict(made.definition), made.labelled
        if name == "chat" and environment:
            lines["environment"] = {**lines["environment"], **environment}
            words["service"] = digest({word: value for word, value in lines.items() if word != "labels"})
        label = json.dumps({word: value for word, value in words.items() if word not in lacking}, sort_keys=True)
        lines["labels"]["gpurack.model"] = label
        services[name] = lines
        containers.append(running(spec, name, bare, label=label))
    return host_state(
        weights={"/w/a.gguf": 1},
        files={paths.compose_file(""): compose.document(services)},
        secrets={
            paths.container_file("", name, file): "400"
            for name, texts in first.job["projects"][""]["files"].items() for file in texts
        },
        containers=containers,
        probes={name: [200, '"alpha"'] for name in spec.entries},
    )  # fmt: skip


def acting(found: ModelsPlan) -> dict[str, str]:
    return {name: why for name, why in changes(found).items() if why != "keep"}


def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on it is a gpurack that writes each of its own files differently."""
    monkeypatch.setattr(litellm, "read_text", lambda path: "# newer\n")
    monkeypatch.setattr(llama_cpp_python, "PATIENT", {"interrupt_requests": False, "verbose": False})


def test_changed_file_contents_of_gpurack_recreate_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    state = deployed(host())
    assert plan(host(), state).job is None
    newer(monkeypatch)
    found = plan(host(), state)
    assert (acting(found), found.job) == ({}, None)
    assert said(found.warnings) == (
        "2 models run with settings of an older gpurack. `gpurack apply --renew` recreates them.",
    )
    assert acting(plan(host(), state, renew=True)) == {
        "several": ": gpurack's own settings for this engine changed: files.llama-cpp-python.json",
        "gateway": ": gpurack's own settings for this engine changed: files.gateway.py",
    }


def test_keeps_files_of_older_gpurack(monkeypatch: pytest.MonkeyPatch) -> None:
    """The container mounts them, and its command matches them. Missing ones are written anyway."""
    state = deployed(host())
    newer(monkeypatch)
    moved = plan(host(config=OTHER), state).job
    assert moved
    files = moved["projects"][""]["files"]
    assert (set(files["gateway"]), set(files["several.2"])) == ({"litellm.yaml"}, {"llama-cpp-python.json"})
    lost = paths.container_file("", "gateway", "gateway.py")
    damaged = replace(state, secrets={path: mode for path, mode in state.secrets.items() if path != lost})
    mended = plan(host(), damaged).job
    assert mended
    assert mended["projects"][""]["files"]["gateway"]["gateway.py"] == "# newer\n"


@pytest.mark.parametrize("of_a_newer_gpurack", [False, True])
def test_applies_changes_of_inventory(monkeypatch: pytest.MonkeyPatch, of_a_newer_gpurack: bool) -> None:
    """The label has the address of each connection, and the config."""
    state = deployed(host())
    if of_a_newer_gpurack:
        newer(monkeypatch)
    why = ": upstreams.far on gpu2 http://gpu2:8000/v1 (llama.cpp: far) → http://gpu2:8001/v1 (llama.cpp: far)"
    assert acting(plan(host(8001, config=OTHER), state)) == {
        "several": ": config changed", "gateway": why, "chat": why,
    }  # fmt: skip


def test_keeps_page_with_changed_variables_of_gpurack() -> None:
    state = deployed(host(), environment={"OLD": "1"})
    found = plan(host(), state)
    assert (acting(found), found.job, said(found.warnings)) == ({}, None, ONE_OLDER)
    assert acting(plan(host(), state, renew=True)) == {
        "chat": ": gpurack's own settings for this engine changed: environment"
    }


def test_keeps_label_without_later_keys() -> None:
    """So compose.yaml shows what each container was made with."""
    state = deployed(host(), LATER)
    found = plan(host(), state)
    assert (acting(found), found.job, found.warnings) == ({}, None, ())


def test_old_label_counts_unknown_difference_as_inventorys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of connections must never be missed, so a change of gpurack's own recreates such a container once."""
    state = deployed(host(), LATER, environment={"OLD": "1"})
    newer(monkeypatch)
    assert acting(plan(host(), state)) == {
        "several": ": files.llama-cpp-python.json changed",
        "gateway": ": files.gateway.py changed",
        "chat": ": its connections changed, or gpurack's own settings for this engine",
    }


def test_keeps_gateway_with_old_label_and_same_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files have its connections; a page has them in its variables."""
    state = deployed(host(), LATER)
    monkeypatch.setattr(litellm, "START", "exec true")
    monkeypatch.setattr(service_module, "NO_NEW_PRIVILEGES", "no-new-privileges=true")
    found = plan(host(), state)
    assert (acting(found), found.job) == ({}, None)
    assert said(found.warnings) == (
        "3 models run with settings of an older gpurack. `gpurack apply --renew` recreates them.",
    )


def test_verify_accepts_older_settings() -> None:
    def made_by_an_older_one(parts: dict[str, Any], said: dict[str, Any]) -> None:
        state = evidence.Seen(parts).state
        wanted = entry().server.spec
        data = without_options(desire("alpha", wanted, state, (CARD,)).service)
        words = {**desire("alpha", wanted, state, (CARD,), {}, SALT).definition, "service": digest(data)}
        label = json.dumps(words, sort_keys=True)
        said["Config"]["Labels"]["gpurack.model"] = label
        text = compose.document({"alpha": {**data, "labels": {"gpurack.model": label}}})
        parts["files"]["/etc/gpurack/compose.yaml"]["text"] = text

    for check in (test_models.test_definition, test_models.test_runs, test_models.test_image):
        assert drifts(check, entry(change=made_by_an_older_one)) == []

    def edited_as_well(parts: dict[str, Any], said: dict[str, Any]) -> None:
        made_by_an_older_one(parts, said)
        file = parts["files"]["/etc/gpurack/compose.yaml"]
        file["text"] = file["text"].replace('"unless-stopped"', '"no"')

    assert drifts(test_models.test_definition, entry(change=edited_as_well))


def test_verify_accepts_kept_files(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = check_fleet({"gpu1": [{"models": {"alpha": SEVERAL}}]})["gpu1"]

    def run_before(parts: dict[str, Any], said: dict[str, Any]) -> None:
        state = evidence.Seen(parts).state
        lines = desire("alpha", wanted, state, (), {}, SALT).labelled
        said["Config"]["Labels"] = {**said["Config"]["Labels"], **lines["labels"]}
        parts["files"]["/etc/gpurack/compose.yaml"]["text"] = compose.document({"alpha": lines})
        path = paths.container_file("", "alpha", "llama-cpp-python.json")
        parts["secrets"]["files"][path] = {"mode": "400", "owner": "root", "sum": "of the older text"}

    (edited,) = drifts(test_models.test_files, entry(wanted, run_before))
    assert edited.endswith("expected what the inventory has, found something else")
    parts = entry(wanted, run_before)
    newer(monkeypatch)
    assert drifts(test_models.test_files, parts) == []


def test_verify_skips_container_whose_service_is_lost() -> None:
    """Only compose.yaml is drift, which a run writes again."""

    def made_by_an_older_one(parts: dict[str, Any], said: dict[str, Any]) -> None:
        state = evidence.Seen(parts).state
        made = desire("alpha", entry().server.spec, state, (CARD,), {}, SALT)
        words = made.definition
        labels = {**said["Config"]["Labels"], "gpurack.model": json.dumps({**words, "service": "0" * 12})}
        said["Config"] |= {"Labels": labels, "Cmd": ["older"]}
        parts["files"]["/etc/gpurack/compose.yaml"]["text"] = compose.document({"alpha": made.labelled})

    assert drifts(test_models.test_definition, entry(change=made_by_an_older_one)) == []


@pytest.mark.parametrize("path", sorted(CASES), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_digest_matches_service_read_from_compose_yaml_for_every_engine(path: Path) -> None:
    case = json.loads(path.read_text())
    for service in [case["service"]] if "service" in case else []:
        written = {**service, "labels": {"gpurack.model": "{}"}}
        file = {paths.compose_file(""): compose.document({service["container_name"]: written})}
        read = compose.old_services(host_state(files=file))[service["container_name"]]
        del read["labels"]
        assert digest(read) == digest(service)


def test_format_of_label_is_unchanged() -> None:
    """Keys and fingerprints keep their form, so that older and newer versions understand each other."""
    words = desire("alpha", TWO, host_state(gpus=4), (uuid(0),), {}, SALT).definition
    assert set(words) == {
        "engine", "version", "image", "weights", "gpus", "uuids", "port", "bind", "served_name", "service",
    }  # fmt: skip
