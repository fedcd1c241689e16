"""An upgrade of gpurack restarts nothing by itself: what it alone would make differently stays as it is, counted."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpurack import paths
from gpurack.plan import addresses, compose, drift
from gpurack.plan.desired import desire, digest
from gpurack.plan.host import Run, findings
from gpurack.plan.models import ModelsPlan, plan_models
from gpurack.spec.host import Host
from gpurack.state.model import HostState
from gpurack.verify import look, test_models
from tests.given import SALT, host_state, models, uuid
from tests.unit.test_models_plan import actions, changes, settled
from tests.unit.verify.test_checks import CARD, drifts, entry

Service = dict[str, Any]
CASES = [*Path(__file__).parent.glob("engines/*/*.json"), *Path(__file__).parent.glob("services/*.json")]
TWO = models(alpha={"gpus": [0]}, beta={"gpus": [1], "compose": {"labels": ["team=nlp"]}})
ONE_OLDER = ("1 model runs with settings of an older gpurack; --data renew=yes recreates it.",)
OPTIONS = ["no-new-privileges:true"]


def without_options(service: Service) -> Service:
    """As gpurack made it before there was no-new-privileges."""
    return {word: value for word, value in service.items() if word != "security_opt"}


def other_spelling(service: Service) -> Service:
    return {**service, "image": f"docker.io/{service['image']}"}


def older(
    wanted: Host,
    change: Callable[[Service], Service] = without_options,
    of: tuple[str, ...] = ("alpha",),
    **over: Any,
) -> HostState:
    """The host after a run of an older gpurack, which made the models `of` otherwise. over: of their containers."""
    state = settled(wanted)
    made, containers = {}, []
    for one in state.containers:
        words = json.loads(one.labels["gpurack.model"])
        data = desire(one.name, wanted, state, tuple(words["uuids"])).service
        if one.name in of:
            data = change(data)
            words |= {"service": digest(data), "image": data["image"]}
        labels = {
            "gpurack.model": json.dumps(words, sort_keys=True),
            "gpurack.probe": addresses.probe_url(one.name, wanted, state),
        }
        made[one.name] = {**data, "labels": {**dict(one.split("=") for one in data.get("labels", ())), **labels}}
        containers.append(replace(one, labels={**one.labels, **labels}, **(over if one.name in of else {})))
    text = compose.document(made)
    file = replace(state.files[paths.compose_file("")], content=text.encode())
    return replace(state, files={**state.files, paths.compose_file(""): file}, containers=tuple(containers))


def plan(wanted: Host, state: HostState, renew: bool = False) -> ModelsPlan:
    return plan_models(wanted, state, {}, SALT, renew=renew)


def written(state: HostState, change: Callable[[str], str]) -> HostState:
    """The host with compose.yaml changed."""
    path = paths.compose_file("")
    file = state.files[path]
    return replace(state, files={**state.files, path: replace(file, content=change(file.text).encode())})


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_a_running_model_stays_as_it_is_and_is_counted(name: str) -> None:
    found = plan(TWO, older(TWO, of=(name,)))
    assert found.nothing
    assert actions(found) == {"alpha": "keep", "beta": "keep"}
    assert found.warnings == ONE_OLDER


def test_the_plan_counts_all_of_them_in_one_line() -> None:
    found = plan(TWO, older(TWO, of=("alpha", "beta")))
    assert found.nothing
    assert found.warnings == ("2 models run with settings of an older gpurack; --data renew=yes recreates them.",)


def test_plan_live_shows_the_line_and_no_change() -> None:
    state = replace(older(TWO), cdi=frozenset({"nvidia.com/gpu=all"}))
    shown = [(kind, line) for kind, line in findings(TWO, state, Run()) if "model" in line]
    assert shown == [("warning", ONE_OLDER[0])]


def test_nothing_is_said_of_a_host_that_this_gpurack_made() -> None:
    assert plan(TWO, settled(TWO)).warnings == ()


def test_a_volume_that_an_older_one_lacked_changes_nothing() -> None:
    found = plan(TWO, older(TWO, lambda service: {**service, "volumes": service["volumes"][:0]}))
    assert (found.nothing, found.warnings) == (True, ONE_OLDER)


def test_the_same_image_by_another_name_changes_nothing() -> None:
    state = older(TWO, other_spelling)
    reference = desire("alpha", TWO, state, (uuid(0),)).image
    same = replace(state, images={reference: state.ours["", "alpha"].image})
    found = plan(TWO, same)
    assert (found.nothing, found.warnings) == (True, ONE_OLDER)
    other = replace(state, images={reference: "sha256:other"})
    assert actions(plan(TWO, other))["alpha"] == "recreate"


def test_the_old_lines_stay_in_compose_yaml_when_another_model_changes() -> None:
    state = older(TWO)
    wanted = models(alpha={"gpus": [0]}, beta={"gpus": [1], "context": 4096})
    found = plan(wanted, state)
    assert actions(found) == {"alpha": "keep", "beta": "recreate"}
    assert found.job
    blocks = found.job["projects"][""]["services"]
    assert blocks["alpha"] == found.job["projects"][""]["before"]["alpha"]
    assert "security_opt" not in blocks["alpha"]["services"]["alpha"]
    assert "security_opt" in blocks["beta"]["services"]["beta"]


def test_it_is_applied_when_the_entry_changes_for_another_reason() -> None:
    found = plan(models(alpha={"gpus": [0], "context": 4096}, beta={"gpus": [1]}), older(TWO))
    assert changes(found)["alpha"] == ": context – → 4096"
    assert found.job
    assert "security_opt" in found.job["projects"][""]["services"]["alpha"]["services"]["alpha"]
    assert found.warnings == ()


def test_renew_recreates_and_says_what_changed() -> None:
    found = plan(TWO, older(TWO), renew=True)
    assert changes(found) == {"alpha": ": gpurack's own settings for it changed: security_opt", "beta": "keep"}
    assert actions(found)["alpha"] == "recreate"
    assert found.warnings == ()
    assert plan(TWO, settled(TWO), renew=True).nothing


def test_a_stopped_one_is_started_as_it_was() -> None:
    found = plan(TWO, older(TWO, status="exited", exit_code=137))
    assert actions(found) == {"alpha": "start", "beta": "keep"}
    assert found.job
    assert "security_opt" not in found.job["projects"][""]["services"]["alpha"]["services"]["alpha"]


def test_old_lines_changed_by_hand_are_no_longer_known() -> None:
    """Then there is nothing to keep: it is made anew, as its lines were lost."""
    state = written(older(TWO), lambda text: text.replace(uuid(0), uuid(3)))
    assert actions(plan(TWO, state)) == {"alpha": "recreate", "beta": "keep"}
    assert "compose.yaml has not those" in changes(plan(TWO, state))["alpha"]


def test_lines_of_this_gpurack_changed_by_hand_are_taken_back_beside_older_ones() -> None:
    state = written(older(TWO), lambda text: text.replace(uuid(1), uuid(3)))
    found = plan(TWO, state)
    assert changes(found) == {"alpha": "keep", "beta": ": its lines in compose.yaml were changed by hand"}
    assert actions(found)["beta"] == "start"


def test_a_lost_compose_file_leaves_nothing_to_keep() -> None:
    state = older(TWO)
    files = {path: file for path, file in state.files.items() if path != paths.compose_file("")}
    assert actions(plan(TWO, replace(state, files=files)))["alpha"] == "recreate"


def test_one_published_elsewhere_by_hand_is_made_anew() -> None:
    found = plan(TWO, older(TWO, ports=(("0.0.0.0", 8000),)))
    assert actions(found)["alpha"] == "recreate"


@pytest.mark.parametrize(("old", "reasons"), [(4000, 0), (4001, 1)])
def test_a_service_is_told_when_what_it_connects_to_moves(old: int, reasons: int) -> None:
    """Its label has only the names of that: where it is may be seen in its environment alone."""
    made, now = ({"image": "x", "environment": {"URLS": f"http://gpu2:{port}/v1"}} for port in (old, 4000))
    now["security_opt"] = OPTIONS
    assert len(drift.outdated(made, now, connects=True)) == reasons
    assert drift.outdated(made, now, connects=False) == []


def test_verify_does_not_call_it_drift() -> None:
    def made_by_an_older_one(parts: dict[str, Any], said: dict[str, Any]) -> None:
        state = look.Seen(parts).state
        wanted = entry().server.wanted
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


@pytest.mark.parametrize("path", sorted(CASES), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_lines_of_every_engine_are_known_again_by_their_digest(path: Path) -> None:
    """What is written into compose.yaml and read from it is what the label's digest is of."""
    case = json.loads(path.read_text())
    for service in [case["service"]] if "service" in case else []:
        written = {**service, "labels": {"gpurack.model": "{}"}}
        file = {paths.compose_file(""): compose.document({"alpha": written})}
        read = compose.old_services(host_state(files=file))["alpha"]
        del read["labels"]
        assert digest(read) == digest(service)


def test_the_label_of_an_older_gpurack_is_not_touched() -> None:
    """Its words and fingerprints keep their form, so that what an older one wrote is understood, and the other way."""
    words = desire("alpha", TWO, host_state(gpus=4), (uuid(0),), {}, SALT).definition
    assert set(words) == {
        "engine", "version", "image", "weights", "gpus", "uuids", "port", "bind", "served_name", "service",
    }  # fmt: skip
