"""The host's record proves which containers are gpurack's. Names and labels can be copied, and acting on a copy would
destroy somebody's container.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.security.hosts import COPY, DOCKER, acts, carry_out, entry, runner
from tests.unit.host_programs import Fakes, container_id, load


@pytest.fixture
def models(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Any:
    return runner(tmp_path, fakes, monkeypatch)


@pytest.fixture
def record() -> Any:
    """files/record.py, as the runner imports it."""
    import record as module  # of files/

    return module


def recorded(record: Any) -> Any:
    return json.loads(Path(record.RECORD).read_text())["containers"]


def write(record: Any, content: Any) -> None:
    path = Path(record.RECORD)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def of_alpha(identity: str | None = None) -> dict[str, Any]:
    """A record with alpha's container."""
    found = {"id": identity, "kind": "model", "definition": "old", "applied": "2026-11-01T00:00:00Z"}
    return {"format": 1, "containers": {"": {"alpha": found}}}


# --- what Compose and Docker would take for ours ---------------------------------------------------------------------


@pytest.mark.parametrize("action", ["create", "recreate", "start"])
def test_copy_with_our_labels_is_not_passed_to_compose(models: Any, fakes: Fakes, capsys: Any, action: str) -> None:
    """Compose would take it for a second container of the service, and remove it."""
    if action != "create":
        fakes.state("runs.alpha", "")
    fakes.state("alike", COPY + "\n")
    assert carry_out(models, [entry("alpha", action)], ours={"": ["alpha"]}).failures == 1
    said = capsys.readouterr().out
    assert f"error alpha: container {COPY[:12]} has gpurack's labels for alpha, but gpurack did not create it" in said
    assert f"docker rm --force {COPY[:12]}" in said
    assert acts(fakes) == []


def test_starts_other_models_beside_copy(models: Any, fakes: Fakes) -> None:
    fakes.add("docker", 'case "$*" in ps*service=beta*) exit 0;; esac\n' + DOCKER)
    fakes.state("alike", COPY + "\n")
    assert carry_out(models, [entry("alpha")], [entry("beta")]).failures == 1
    assert {act.split()[-1] for act in acts(fakes)} == {"beta"}


def test_keeps_copy_with_name_of_removed_model(models: Any, fakes: Fakes, record: Any) -> None:
    """The record has another id than the container that is now called alpha."""
    write(record, of_alpha("a" * 64))
    fakes.state("runs.alpha", "")  # with our labels and the name, but another id
    assert carry_out(models, [entry("alpha", "remove")], ours={"": ["alpha"]}).failures == 0
    assert acts(fakes) == []
    assert carry_out(models, [entry("alpha")]).failures == 1
    assert acts(fakes) == []


def test_leaves_renamed_container(models: Any, fakes: Fakes, capsys: Any) -> None:
    fakes.state("runs.alpha", "")
    fakes.state("called.alpha", "kept-by-eve\n")
    for action in ("remove", "recreate", "create"):
        assert carry_out(models, [entry("alpha", action)], ours={"": ["alpha"]}).failures == 1
    assert "is now named kept-by-eve" in capsys.readouterr().out
    assert acts(fakes) == []


def test_removes_by_id(models: Any, fakes: Fakes, record: Any) -> None:
    fakes.state("runs.alpha", "")
    assert carry_out(models, [entry("alpha", "remove")], ours={"": ["alpha"]}).failures == 0
    log = fakes.log.read_text()
    assert f"docker stop -t 30 {container_id('alpha')}\n" in log
    assert f"docker rm --force {container_id('alpha')}\n" in log
    assert recorded(record) == {"": {}}


@pytest.mark.parametrize("bad", ["--privileged", "", "alpha", "A" * 64, "a" * 63, "a" * 64 + "\n", 7, None, ["a" * 64]])
def test_invalid_id_is_never_an_argument(models: Any, record: Any, bad: Any) -> None:
    record.rebuild([("ada", "alpha", bad, "model", "", "alpha")])
    assert record.ids("ada", {"alpha": bad}) == {}


def test_keeps_copy_of_job_container(tmp_path: Path, fakes: Fakes, monkeypatch: Any) -> None:
    jobs = load("jobs")
    jobs.JOBS = str(tmp_path / "jobs")
    monkeypatch.setattr(os, "chown", lambda *arguments: None)
    fakes.state("alike", COPY + "\n")
    models_script = runner(tmp_path, fakes, monkeypatch)
    assert models_script
    job = {"name": "alpha", "compose_file": "/x.yaml", "image": "i:1", "fetch": [], "definition": "0f", "result": None}
    assert len(jobs.run_all({"groups": [[{**job, "folder": str(tmp_path / "f")}]], "logins": {}})) == 1
    assert acts(fakes) == []


# --- the file --------------------------------------------------------------------------------------------------------


def test_writes_record_before_creation_and_after_removal(models: Any, fakes: Fakes, record: Any) -> None:
    assert carry_out(models, [entry("alpha")]).failures == 0
    (change,) = json.loads((fakes.folder / "state/record.at_create").read_text())["replacing"]
    (member,) = change["members"]
    assert (change["phase"], member["name"], member["new_id"], member["new_key"]) == ("prepare", "alpha", None, "alpha")
    entry_after = recorded(record)[""]["alpha"]
    assert (entry_after["id"], entry_after["definition"]) == (container_id("alpha"), "of-alpha")
    file = Path(record.RECORD).stat()
    assert (stat.S_IMODE(file.st_mode), file.st_uid) == (0o600, os.getuid())
    assert carry_out(models, [entry("alpha", "remove")], ours={}).failures == 0
    assert recorded(record) == {"": {}}


def test_removes_entry_of_failed_creation(models: Any, fakes: Fakes, record: Any) -> None:
    """A null id would make any container with these labels ours."""
    fakes.add(
        "docker", 'case "$*" in *" create "*) echo "Error: no"; exit 1;; esac\n' + (fakes.folder / "docker").read_text()
    )
    assert carry_out(models, [entry("alpha")]).failures == 1
    assert recorded(record) == {}


def test_finds_container_of_killed_creation(models: Any, fakes: Fakes, record: Any) -> None:
    write(record, of_alpha(None))
    fakes.state("runs.alpha", "")
    assert carry_out(models, [entry("alpha", "start")], ours={"": ["alpha"]}).failures == 0
    assert [act.split()[1] for act in acts(fakes)] == ["compose"]
    assert recorded(record)[""]["alpha"]["id"] == container_id("alpha")


def test_without_record_containers_of_plan_are_added_once(models: Any, fakes: Fakes, record: Any) -> None:
    for content in (None, "{", "[]", '{"format": 1, "containers": {"": {"alpha": 7}}}', '{"format": "1"}'):
        Path(record.RECORD).unlink(missing_ok=True)
        if content is not None:
            write(record, content)
        carry_out(models, ours={"": ["alpha"], "ada": ["beta"]})
        found = {user: {name: one["id"] for name, one in names.items()} for user, names in recorded(record).items()}
        assert found == {"": {"alpha": container_id("alpha")}, "ada": {"beta": container_id("beta")}}
    carry_out(models, ours={"": ["gamma"]})
    assert "gamma" not in recorded(record)[""]


def test_silent_daemon_is_added_later(models: Any, record: Any) -> None:
    write(record, of_alpha("a" * 64))
    for names in (["beta"], ["gamma"]):
        carry_out(models, ours={"": ["gamma"], "ada": names})
        assert {user: list(found) for user, found in recorded(record).items()} == {"": ["alpha"], "ada": ["beta"]}


def test_removes_entry_of_missing_user(models: Any, record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def account(user: str) -> Any:
        if user == "eve":
            raise models.Failure("the user eve does not exist")
        return os.getuid(), ["env"]

    content = of_alpha("a" * 64)
    content["containers"].update(eve={}, ada={})
    write(record, content)
    monkeypatch.setattr("accounts.as_user", account)
    carry_out(models)
    assert list(recorded(record)) == ["", "ada"]


def test_refuses_newer_format_and_changes_nothing(models: Any, fakes: Fakes, record: Any, capsys: Any) -> None:
    write(record, {"format": 3, "containers": {}})
    before = Path(record.RECORD).read_bytes()
    fakes.state("runs.alpha", "")
    assert carry_out(models, [entry("alpha", "recreate")], ours={"": ["alpha"]}).failures == 1
    assert "has format 3, written by a newer gpurack; this one supports format 2" in capsys.readouterr().out
    assert acts(fakes) == []
    assert Path(record.RECORD).read_bytes() == before


def test_keeps_fields_of_newer_gpurack(models: Any, fakes: Fakes, record: Any) -> None:
    content = of_alpha(container_id("alpha"))
    content["later"] = {"x": 1}
    content["containers"][""]["alpha"]["ready"] = "yesterday"
    write(record, content)
    fakes.state("runs.alpha", "")
    assert carry_out(models, [entry("alpha", "start")], [entry("beta")], ours={"": ["alpha"]}).failures == 0
    found = json.loads(Path(record.RECORD).read_text())
    assert found["later"] == {"x": 1}
    assert found["containers"][""]["alpha"]["ready"] == "yesterday"
    assert found["containers"][""]["beta"]["id"] == container_id("beta")


def test_seconds_of_a_start_stay_known_for_the_same_definition(record: Any, models: Any) -> None:
    once = {"at": "t1", "definition": "d", "label": "l", "image": "i", "digest": "", "id": "x", "seconds": 42}
    again = {word: text for word, text in once.items() if word != "seconds"} | {"at": "t2"}
    for each in (once, again, {**again, "id": "y"}):
        record.note_ready("", "alpha", each)
    [newest, before] = json.loads(Path(record.RECORD).read_text())["ready"][""]["alpha"]
    assert (before["at"], before["until"], before["seconds"]) == ("t1", "t2", 42), "since when it was the newest"
    assert "seconds" not in newest, "another image may take longer"


def test_threads_of_users_lose_no_entry(record: Any, models: Any) -> None:
    def write_some(user: str) -> None:
        for number in range(10):
            record.about_to_create(user, f"m{number}", "model", "")
            record.created(user, f"m{number}", container_id(user))

    threads = [threading.Thread(target=write_some, args=(user,)) for user in ("", "ada", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {user: len(names) for user, names in recorded(record).items()} == {"": 10, "ada": 10, "bob": 10}


# --- what a user's Docker says does not make it large or wrong --------------------------------------------------------


def dockerd_that_says(*answers: str) -> Any:
    """A daemon of eve's whose commands print these, one after the other."""
    import dockerd  # of files/

    daemon = dockerd.Dockerd()
    daemon.user = "eve"
    said = iter(answers)
    daemon.bounded = lambda words, limit, work: (0, next(said, ""))
    return daemon


def test_record_stays_small_enough_to_be_read(models: Any, record: Any) -> None:
    """The snapshot takes one of more than 4 MiB for missing, and Compose's labels would vouch again."""
    write(record, {"format": 2, "containers": {}})
    for removal in range(60):
        volumes = "\n".join(f"{removal:04d}{number:060d}" for number in range(1000))
        dockerd_that_says(volumes, "").discard("gamma", COPY)
    assert Path(record.RECORD).stat().st_size < 200_000
    assert len(json.loads(Path(record.RECORD).read_text())["volumes"]["eve"]) == 1000


@pytest.mark.parametrize("said", ["x" * 10**6, "2026-11-30T21:00:00Z\n", "by hand", "2026-11-30T21:00:00Z" * 9])
def test_start_time_that_is_no_time_is_empty(said: str) -> None:
    """It is recorded with the test request, and with a change under way."""
    import processes  # of files/

    state = {"status": "running", "pid": 7, "restarts": 0, "code": 0, "error": "", "started": said}
    assert processes.state(dockerd_that_says(json.dumps(state)), COPY)["started"] == ""
    state["started"] = "2026-11-30T21:00:00.123456789+01:00"
    assert processes.state(dockerd_that_says(json.dumps(state)), COPY)["started"] == state["started"]


def test_ids_of_images_are_ids_and_few(models: Any, record: Any) -> None:
    """They are recorded before and after each pull, for good: `gpurack prune` skips what is no id."""
    import images  # of files/

    write(record, {"format": 2, "containers": {}})
    real = "sha256:" + "a" * 64
    assert images.image_id(dockerd_that_says(real), "i:1") == real
    assert images.image_id(dockerd_that_says("x" * 10**6), "i:1") is None
    assert images.ids(dockerd_that_says(f"{real}\n{'x' * 10**6}\n")) == {real}
    many = [f"sha256:{number:064d}" for number in range(3000)]
    with images.noted(dockerd_that_says("\n".join(many), real), "i:1"):
        pass
    known = {image: ["i:1"] for image in many[:990]}  # each more costs a write of the whole record
    write(record, {"format": 2, "containers": {}, "images": {"eve": known}})
    for image in many[980:1010]:
        with images.noted(dockerd_that_says("", image), "i:1"):
            pass
    record.end_pull("eve", "i:1", real)
    assert list(json.loads(Path(record.RECORD).read_text())["images"]["eve"]) == many[:1000]
    assert Path(record.RECORD).stat().st_size < 400_000


@pytest.mark.parametrize("part", ["images", "volumes", "pulling"])
def test_junk_of_an_older_version_is_struck_with_the_next_change(models: Any, record: Any, part: str) -> None:
    """It would stay for good, as `gpurack prune` skips it."""
    image, volume, junk = f"sha256:{'a' * 64}", "b" * 64, "x" * 10**5
    known = {
        "images": {"eve": {image: ["i:1"], junk: ["i:2"], "--all": []}, "ada": 7, "": {image: "i:1"}},
        "volumes": {"eve": {volume: "gamma", junk: "gamma", "a b": "gamma"}, "ada": [volume], "": {volume: 1}},
        "pulling": {"eve": {"i:1": [image, junk, 7], "i:2": "all"}, "ada": None, "": {}},
    }
    kept = {
        "images": {"eve": {image: ["i:1"]}, "": {}},
        "volumes": {"eve": {volume: "gamma"}, "": {}},
        "pulling": {"eve": {"i:1": [image]}, "": {}},
    }
    write(record, {"format": 2, "containers": {}, part: known[part]})
    record.note_run("apply", {}, ["create alpha"], {})
    assert json.loads(Path(record.RECORD).read_text())[part] == kept[part]


def test_pulls_that_never_end_are_few(models: Any, record: Any) -> None:
    """A user's Docker falls silent in each of them, and the next run pulls another version."""
    write(record, {"format": 2, "containers": {}})
    before = {f"sha256:{number:064x}" for number in range(1900)}
    for version in range(12):
        record.begin_pull("eve", f"v:{version}", before)
        record.begin_pull("", f"v:{version}", set(list(before)[:10]))
    assert Path(record.RECORD).stat().st_size < 600_000
    assert record.before_pull("eve", "v:11") == sorted(before)
    assert len(json.loads(Path(record.RECORD).read_text())["pulling"][""]) == 12


def test_record_is_not_written_larger_than_it_can_be_read(models: Any, record: Any) -> None:
    write(record, {"format": 2, "containers": {}})
    before = Path(record.RECORD).read_text()
    with pytest.raises(OSError, match="larger than 4 MiB") as error:
        record.note_test("eve", "gamma", COPY, "", 0, "x" * 5 * 10**6)
    assert error.value.filename == record.RECORD
    assert Path(record.RECORD).read_text() == before
    write(record, {"format": 2, "containers": {}, "later": ["x" * 10**6] * 6})  # of an older gpurack
    with record.changing_all() as found:
        del found["later"][0]
    assert len(json.loads(Path(record.RECORD).read_text())["later"]) == 5


def test_digest_of_an_image_is_short() -> None:
    sha = "0" * 64
    assert dockerd_that_says(json.dumps([f"r/i@sha256:{sha}"])).repo_digest(f"sha256:{sha}") == f"r/i@sha256:{sha}"
    assert dockerd_that_says(json.dumps([f"{'r' * 10**6}@sha256:{sha}"])).repo_digest(f"sha256:{sha}") == ""


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(COPY),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
SAID = (
    "status", "pid", "restarts", "code", "error", "started", "grace", "id", "name", "image", "labels", "policy",
    "retries", "vanishes", "ports", "mounts", "size", "tags",
)  # fmt: skip
"""The words of the answers that a user's Docker is asked for."""


@given(said=VALUES | st.dictionaries(st.sampled_from(SAID), VALUES, min_size=4))
def test_any_answer_of_a_users_docker_is_a_value_or_a_failure(said: Any) -> None:
    """Anything else would end what is done for others, too."""
    import images
    import leftovers as module
    import messages
    import processes

    text, image = json.dumps(said), f"sha256:{COPY}"
    for ask in (
        lambda daemon: processes.state(daemon, COPY),
        lambda daemon: daemon.inspect(COPY),
        lambda daemon: daemon.details(COPY),
        lambda daemon: daemon.repo_digest(image),
        lambda daemon: images.ids(daemon),
        lambda daemon: images.image_id(daemon, "i:1"),
        lambda daemon: module.described(daemon, image),
        lambda daemon: module.containers_of(daemon),
    ):
        with contextlib.suppress(messages.Failure):
            ask(dockerd_that_says(text, text))
    daemon = dockerd_that_says(COPY, text, text)
    with contextlib.suppress(messages.Failure):
        module.images(daemon, module.containers_of(daemon), {"ready": {}, "images": {"eve": {image: []}}}, [])


def test_one_users_docker_keeps_prune_from_no_other(monkeypatch: Any) -> None:
    module, told = load("leftovers"), list[Any]()

    def containers_of(dockerd: Any) -> Any:
        return [{"name": "x", "image": {}, "mounts": []}] if dockerd == "eve" else []

    monkeypatch.setattr(module, "Dockerd", lambda user: user)
    monkeypatch.setattr(module, "containers_of", containers_of)
    monkeypatch.setattr(module.record, "load", lambda: {"ready": {}, "images": {}})
    for name in ("definitions", "volumes", "weights", "builds"):
        monkeypatch.setattr(module, name, lambda *given: [])
    monkeypatch.setattr(module, "images", lambda dockerd, containers, *rest: [{one["image"] for one in containers}] * 0)
    job = {"users": ["", "eve"], "remove": False, "images": [], "weights_dir": "/w", "weights": []}
    module.main(job, lambda found, remove: told.append(found))
    assert [[one["kind"] for one in found] for found in told] == [["docker"], [], []]


@pytest.mark.parametrize(
    "address", ["evil.example", "localhost", "1..2", "127.0.0.1\n", "", "10.0.0.7", "::1", None, 7, "x" * 10**6]
)
def test_published_port_has_an_ip_address(address: Any) -> None:
    """Root binds it, and a name would be looked up in a DNS of the user's choice, under the lock."""
    found = {"status": "running", "policy": "no", "retries": 0, "vanishes": False, "image": "i:1"}
    found["ports"] = {"8080/tcp": [{"HostIp": address, "HostPort": "8000"}]}
    known = address in ("", "10.0.0.7", "::1")
    assert dockerd_that_says(json.dumps(found)).details(COPY)["ports"] == ([(address, 8000)] if known else [])


@pytest.mark.parametrize(("image", "known"), [("r/i:1", True), ("--privileged", False), ("x" * 301, False)])
def test_image_of_a_container_is_no_option(image: str, known: bool) -> None:
    found = {"status": "running", "policy": "no", "retries": 0, "vanishes": False, "image": image, "ports": {}}
    assert dockerd_that_says(json.dumps(found)).details(COPY)["image"] == (image if known else "")


def test_history_marks_texts_that_are_cut(record: Any, models: Any) -> None:
    why = "alpha: " + "out of memory " * 40
    record.note_run("apply", {}, ["recreate alpha"], {why: "exited"})
    (failed,) = json.loads(Path(record.RECORD).read_text())["history"][-1]["failed"]
    assert len(failed) <= record.LONGEST
    assert failed.removesuffix("…").rpartition(" ")[2] in ("out", "of", "memory"), "it ends after a word"
    assert failed.endswith("…")
