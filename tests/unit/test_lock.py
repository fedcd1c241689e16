"""The lock: its file, what it requires of a host, contradictions with the inventory, and how it is observed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Probe
from gpurack.inventory.fleet import check_fleet
from gpurack.inventory.lock_file import read_lock, with_lock
from gpurack.locking.observe import missing, observed
from gpurack.locking.openpgp import fingerprint
from gpurack.plan import pins
from gpurack.plan.models.plan import ModelsPlan
from gpurack.plan.packages.platforms import TOOLKIT_PACKAGES
from gpurack.plan.steps import Shell
from gpurack.plan.system.docker import plan_docker, with_source
from gpurack.plan.system.nvidia_toolkit import plan_toolkit
from gpurack.spec.host import Host
from gpurack.spec.lock import HostLock, Lock, ModelLock, facts, text
from gpurack.spec.problems import InventoryError
from tests.given import host_state, models, models_plan, running, said, spec

ONE, OTHER = "1" * 64, "2" * 64
IMAGE = "ghcr.io/ggml-org/llama.cpp:server-b7000"
LOCKED = ModelLock(image=f"{IMAGE}@sha256:{ONE}", weights={"/w/a.gguf": ONE})
ALPHA = models(alpha={})
HUB = models(alpha={"engine": "tei", "version": "1.9", "weights": {"hf": "lab/tiny"}})
FOLDER = "/var/lib/gpurack/weights/hf/lab--tiny@main"
CE = ("docker-ce", "docker-ce-cli", "containerd.io", "docker-buildx-plugin", "docker-compose-plugin")


def locked(spec: Host, model: ModelLock = LOCKED, **said: Any) -> Host:
    return spec.locked(HostLock(models={"alpha": model}, **said))


def settled(spec: Host, **said: Any) -> HostFacts:
    """A host on which alpha runs, with the image and weights of the lock."""
    facts = host_state(weights={"/w/a.gguf": 1, FOLDER: 1}, probes={"alpha": [200, '"alpha"']})
    return replace(
        facts,
        containers=(running(spec, "alpha", facts, image="sha256:id"),),
        **{
            "digests": {"sha256:id": (f"ghcr.io/ggml-org/llama.cpp@sha256:{ONE}",)},
            "hashes": {"/w/a.gguf": ONE},
            "images": {IMAGE: "sha256:id"},
            **said,
        },
    )


def plan(spec: Host, facts: HostFacts) -> ModelsPlan:
    return models_plan(spec, facts)


def changes(found: ModelsPlan) -> list[str]:
    return [str(change) for change in found.changes]


# --- the file --------------------------------------------------------------------------------------------------------


def test_same_facts_give_same_text_and_load_back(tmp_path: Path) -> None:
    host = HostLock(packages={"b": "5:28.5.2-1~x", "a": "1.20"}, models={"z": ModelLock(), "alpha": LOCKED}, driver="5")
    other = HostLock(
        packages={"a": "1.20", "b": "5:28.5.2-1~x"}, models={"alpha": LOCKED, "z": ModelLock()}, driver="5"
    )
    lock, path = Lock(hosts={"gpu2": host, "gpu1": HostLock()}), tmp_path / "lab.py"
    assert text(lock, path) == text(Lock(hosts={"gpu1": HostLock(), "gpu2": other}), path)
    (tmp_path / "lab.lock.yaml").write_text(text(lock, path))
    assert read_lock(path) == read_lock(tmp_path / "lab.yaml") == lock
    assert "a: '1.20'\n" in text(lock, path)


def test_without_lock_nothing_is_pinned(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "lab.py") is None
    assert with_lock({"gpu1": ALPHA}, None)["gpu1"].lock is None


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("hosts: [", "lab.lock.yaml:1: the file ends inside of a bracket"),
        (
            "hosts: {gpu1: {packages: {a: 1.2}}}",
            "lab.lock.yaml hosts.gpu1.packages.a: must be text, not 1.2. Write it",
        ),
        ("hosts: {gpu1: {pakages: {}}}", "lab.lock.yaml hosts.gpu1.pakages: unknown field"),
        ("hosts:\n  gpu1: {}\n  gpu1: {}", 'lab.lock.yaml:3: "gpu1" is given twice'),
    ],
    ids=["no YAML", "a number", "an unknown word", "twice after a merge"],
)
def test_reports_invalid_lock(tmp_path: Path, content: str, where: str) -> None:
    (tmp_path / "lab.lock.yaml").write_text(content)
    with pytest.raises(InventoryError, match="nothing was done") as raised:
        read_lock(tmp_path / "lab.py")
    assert where in str(raised.value)


def test_lists_facts_as_lines() -> None:
    host = HostLock(driver="580", packages={"runc": "1"}, models={"alpha": LOCKED}, keys={"docker-ce": "AB"})
    assert facts(host) == {
        "driver": "580",
        "packages runc": "1",
        "keys docker-ce": "AB",
        "alpha image": f"{IMAGE}@sha256:{ONE}",
        "alpha weights /w/a.gguf": ONE,
    }


# --- packages --------------------------------------------------------------------------------------------------------


def packages(names: tuple[str, ...], version: str, held: str = "") -> dict[str, str]:
    return dict.fromkeys(names, f"{version}{held}")


def test_installs_and_holds_exact_docker_packages() -> None:
    exact = "5:28.5.2-1~debian.13~trixie"
    wanted = spec().locked(HostLock(packages=packages(CE, exact)))
    (step,) = (step for step in plan_docker(wanted, host_state(), True).steps if "install docker-ce" in step.reason)
    assert isinstance(step, Shell)
    assert step.reason == "install docker-ce 28.5.2"
    assert all(f"{name}={exact}" in step.command for name in CE)
    assert f"apt-mark hold {' '.join(CE)}" in step.command


def test_other_package_revision_of_same_version_is_drift() -> None:
    wanted = spec({"docker": {"source": "distro"}}).locked(
        HostLock(packages={"docker.io": "26.1.5+dfsg1-9", "containerd": "1.7.24-1"})
    )
    there = {"docker.io": "26.1.5+dfsg1-9 held", "docker-cli": "26 held", "docker-compose": "2 held"}
    facts = host_state(
        packages={**there, "containerd": "1.7.25-1 held"}, units={"docker.service": "loaded active enabled"}
    )
    reasons = [step.reason for step in plan_docker(wanted, facts, True).steps]
    assert reasons[-1] == "containerd 1.7.25 → 1.7.24"
    facts = host_state(
        packages={**there, "docker.io": "26.1.5+dfsg1-10 held", "containerd": "1.7.24-1 held"},
        units={"docker.service": "loaded active enabled"},
    )
    reasons = [step.reason for step in plan_docker(wanted, facts, True).steps]
    assert reasons[-1] == "docker.io 26.1.5+dfsg1-10 → 26.1.5+dfsg1-9"


def test_installs_exact_toolkit_also_older() -> None:
    wanted = spec().locked(HostLock(packages=packages(TOOLKIT_PACKAGES, "1.20.1-1")))
    facts = host_state(gpus=1, packages=packages(TOOLKIT_PACKAGES, "1.21.0-1"))
    reasons = [step.reason for step in plan_toolkit(wanted, facts).steps]
    assert "NVIDIA Container Toolkit 1.21.0 → 1.20.1" in reasons
    right = host_state(gpus=1, packages=packages(TOOLKIT_PACKAGES, "1.20.1-1"))
    assert [step.reason for step in plan_toolkit(wanted, right).steps if "hold" in step.reason]


# --- models ----------------------------------------------------------------------------------------------------------


def test_keeps_model_that_matches_lock() -> None:
    wanted = locked(ALPHA)
    assert changes(plan(wanted, settled(wanted))) == ["keep alpha"]


def test_tag_that_moved_keeps_model() -> None:
    """The tag points to another image on the host. It is corrected, and the container stays. Without the lock the model
    would be recreated from that image."""
    moved = {"images": {IMAGE: "sha256:newer"}}
    (change,) = changes(plan(locked(ALPHA), settled(ALPHA, **moved)))
    assert change == f"check alpha: {IMAGE} differs on this host from the locked image that runs"
    assert "image moved" in changes(plan(ALPHA, settled(ALPHA, **moved)))[0]


def test_recreates_container_from_locked_image() -> None:
    state = settled(ALPHA, digests={"sha256:id": (f"ghcr.io/ggml-org/llama.cpp@sha256:{OTHER}",)})
    found = plan(locked(ALPHA), state)
    assert changes(found) == [
        f"recreate alpha: image {IMAGE}: sha256:{OTHER[:12]} → sha256:{ONE[:12]}, which is the lock's"
    ]
    assert found.job
    (entry,) = found.job["batches"][0]
    assert (entry["image"], entry["digest"], entry["sha256"]) == (IMAGE, f"sha256:{ONE}", {"/w/a.gguf": ONE})


def test_image_without_registry_differs_from_lock() -> None:
    assert "of no registry → " in changes(plan(locked(ALPHA), settled(ALPHA, digests={})))[0]


def test_refuses_changed_weights_and_keeps_model() -> None:
    found = plan(locked(ALPHA), settled(ALPHA, hashes={"/w/a.gguf": OTHER}))
    assert said(found.errors) == {
        "alpha": f"/w/a.gguf does not match the lock: its sha256 is {OTHER}, not {ONE}. To restore the old one, "
        "put it back; to accept the new one, gpurack lock INVENTORY alpha --upgrade."
    }
    assert not found.changes


def test_hashes_changed_weights_on_host() -> None:
    found = plan(locked(ALPHA), settled(ALPHA, hashes={}))
    assert changes(found) == ["check alpha: its weights against the lock"]
    assert found.job
    assert found.job["batches"][0][0]["sha256"] == {"/w/a.gguf": ONE}


def test_fetches_folder_of_locked_commit() -> None:
    wanted = locked(HUB, ModelLock(commit="a" * 40, weights={f"{FOLDER}/x": ONE}))
    state = settled(wanted, commits={FOLDER: "b" * 40}, hashes={f"{FOLDER}/x": OTHER})
    found = plan(wanted, state)
    assert changes(found) == [f"recreate alpha: weights: commit {'b' * 12} → {'a' * 12}, which is the lock's"]
    assert found.job
    fetch = found.job["batches"][0][0]["fetch"][0]
    assert (fetch["commit"], fetch["sha256"]) == ("a" * 40, {f"{FOLDER}/x": ONE})


ONE_FILE = "/var/lib/gpurack/weights/hf/lab--tiny@main--a/a.gguf"
IN_CONFIG = "/var/lib/gpurack/weights/hf/lab--tiny@main--b/b.gguf"
BY_CONFIG = models(
    alpha={
        "engine": "llama-cpp-python", "version": "0.3.36", "weights": None, "config": {"models": [
            {"model": {"hf": "lab/tiny", "file": "a.gguf"}, "model_alias": "alpha"},
            {"model": {"hf": "lab/tiny", "file": "b.gguf"}, "model_alias": "b"},
            {"model": "/w/c.gguf", "model_alias": "c"},
        ]},
    }
)  # fmt: skip


def test_fetches_single_file_at_locked_commit() -> None:
    wanted = locked(models(alpha={"weights": {"hf": "lab/tiny", "file": "a.gguf"}}), ModelLock(commit="a" * 40))
    found = models_plan(wanted, host_state())
    assert found.job
    assert found.job["batches"][0][0]["fetch"][0]["commit"] == "a" * 40


def test_config_weights_have_commits() -> None:
    state = settled(BY_CONFIG, commits={ONE_FILE: "a" * 40, IN_CONFIG: "b" * 40})
    state = replace(state, weights={ONE_FILE: 1, IN_CONFIG: 1, "/w/c.gguf": 1})
    found = observed(BY_CONFIG, state).models["alpha"]
    assert (found.commit, found.commits) == (None, {ONE_FILE: "a" * 40, IN_CONFIG: "b" * 40})
    assert changes(plan(locked(BY_CONFIG, ModelLock(commits=found.commits)), state)) == ["keep alpha"]
    assert facts(HostLock(models={"alpha": found}))[f"alpha commits {IN_CONFIG}"] == "b" * 40


def test_fetches_only_config_weights_of_other_commit() -> None:
    """The file of another commit is another file, so it is not refused."""
    lock = ModelLock(commits={ONE_FILE: "a" * 40, IN_CONFIG: "b" * 40}, weights={ONE_FILE: ONE, IN_CONFIG: ONE})
    state = settled(BY_CONFIG, commits={ONE_FILE: "a" * 40, IN_CONFIG: "c" * 40})
    state = replace(state, weights={ONE_FILE: 1, IN_CONFIG: 1, "/w/c.gguf": 1})
    found = plan(locked(BY_CONFIG, lock), replace(state, hashes={ONE_FILE: ONE, IN_CONFIG: OTHER}))
    assert changes(found) == [f"recreate alpha: weights: commit {'c' * 12} → {'b' * 12}, which is the lock's"]
    assert found.job
    fetch = found.job["batches"][0][0]["fetch"]
    assert [(one["commit"], one["sha256"]) for one in fetch] == [
        ("a" * 40, {ONE_FILE: ONE}), ("b" * 40, {IN_CONFIG: ONE})
    ]  # fmt: skip
    found = plan(locked(BY_CONFIG, lock), replace(state, hashes={ONE_FILE: OTHER, IN_CONFIG: OTHER}))
    assert found.errors["alpha"].what.startswith(f"{ONE_FILE} does not match the lock")


def test_refuses_other_version_of_ollama_model() -> None:
    wanted = models(alpha={"engine": "ollama", "version": "0.33.0", "weights": None, "pull": ["qwen2.5:7b"]})
    tags = json.dumps({"models": [{"name": "qwen2.5:7b", "digest": OTHER}]})
    state = replace(settled(wanted), probes={("", "alpha"): Probe(200, tags)})
    assert observed(wanted, state).models["alpha"].ollama == {"qwen2.5:7b": OTHER}
    found = plan(locked(wanted, ModelLock(ollama={"qwen2.5:7b": ONE})), state)
    assert found.errors["alpha"].what.startswith(
        f"qwen2.5:7b does not match the lock: its digest is {OTHER}, not {ONE}."
    )
    assert not plan(locked(wanted, ModelLock(ollama={"qwen2.5:7b": OTHER})), state).errors


# --- inventory against lock ------------------------------------------------------------------------------------------

LOCK = HostLock(
    packages={"docker-ce": "5:28.5.2-1~x", "nvidia-container-toolkit": "1.20.1-1"}, models={"alpha": LOCKED}
)
BASE: dict[str, Any] = {"models": {"alpha": {"port": 8000}}}


def test_lock_of_fedoras_docker_contradicts_another_source() -> None:
    wanted = spec({"docker": {"source": "docker-ce"}})
    found = list(pins.host_contradictions(wanted, HostLock(packages={"moby-engine": "28.1.0-1.fc43"})))
    assert [(path, what) for path, what, _ in found] == [("docker.source", "moby-engine, not docker-ce.")]


@pytest.mark.parametrize(
    ("over", "path", "sentence"),
    [
        ({"docker": {"version": "29.0.0"}}, "docker.version", "docker-ce 28.5.2, not 29.0.0"),
        ({"docker": {"source": "distro"}}, "docker.source", "docker-ce, not distro"),
        ({"nvidia": {"toolkit": "1.21.0"}}, "nvidia.toolkit", "nvidia-container-toolkit 1.20.1, not 1.21.0"),
        (
            {"models": {"alpha": {"version": "b7001"}}},
            "models.alpha.version",
            f"image {IMAGE}, not ghcr.io/ggml-org/llama.cpp:server-b7001",
        ),
        ({"models": {"alpha": {"weights": "/w/b.gguf"}}}, "models.alpha.weights", "/w/a.gguf, not /w/b.gguf"),
        (
            {"models": {"alpha": {"version": None, "image": f"{IMAGE}@sha256:{OTHER}"}}},
            "models.alpha.image",
            f"sha256:{ONE[:12]} for it",
        ),
    ],
)
def test_contradiction_names_command_to_move_pin(over: dict[str, Any], path: str, sentence: str) -> None:
    wanted = spec(BASE, over).locked(LOCK)
    (problem,) = pins.contradictions({"gpu1": wanted}, Path("inv/lab.py"))
    what = {"docker": "docker", "nvidia": "toolkit", "models": "alpha"}[path.partition(".")[0]]
    assert problem.path == path
    command = f"gpurack lock inv/lab.py {what} --upgrade"
    assert problem.what == f"inv/lab.lock.yaml has {sentence}. To follow the inventory, move the pin: {command}"


@pytest.mark.parametrize(
    "over",
    [
        {},
        {"docker": {"version": "28.5.2"}, "nvidia": {"toolkit": "1.20.1"}},
        {"docker": {"source": "keep"}},
        {"mirrors": {"ghcr.io": "mirror.lab/ghcr"}},
        {"models": {"alpha": {"enabled": False, "version": "b7001"}}},
        {"models": {"beta": {"port": 8001}}},
    ],
    ids=["nothing", "the same", "keep", "a mirror", "disabled", "a new model"],
)
def test_accepts_inventory_that_matches_lock(over: dict[str, Any]) -> None:
    assert pins.contradictions({"gpu1": spec(BASE, over).locked(LOCK)}, Path("lab.py")) == []


def test_contradiction_names_the_image_of_the_same_kind() -> None:
    """Not the first one of the version: those of other GPUs differ in more than the version."""
    locked = HostLock(models={"alpha": ModelLock(image=f"ghcr.io/ggml-org/llama.cpp:server-cuda-b7000@sha256:{ONE}")})
    wanted = spec(BASE, {"models": {"alpha": {"version": "b7001"}}}).locked(locked)
    (problem,) = pins.contradictions({"gpu1": wanted}, Path("lab.py"))
    assert "server-cuda-b7000, not ghcr.io/ggml-org/llama.cpp:server-cuda-b7001." in problem.what


def test_commit_contradicts_lock_but_branch_does_not() -> None:
    for revision, wrong in (("main", False), ("27dcfa7", False), ("1234567", True)):
        path = f"/var/lib/gpurack/weights/hf/a--b@{revision}/m"
        lock = HostLock(models={"alpha": ModelLock(commit="27dcfa74d", weights={path: ONE})})
        host = models(alpha={"engine": "tei", "version": "1.9", "weights": {"hf": "a/b", "revision": revision}})
        found = [problem.path for problem in pins.contradictions({"gpu1": host.locked(lock)}, Path("lab.py"))]
        assert found == (["models.alpha.weights.revision"] if wrong else [])


def test_warns_of_entries_missing_in_lock() -> None:
    fleet = {"gpu1": spec(BASE, {"models": {"beta": {"port": 8001}}}).locked(LOCK), "gpu2": ALPHA}
    assert [str(problem) for problem in pins.unlocked(fleet)] == [
        "gpu1 models.beta: is not in the lock yet. Run `gpurack lock` to pin it.",
        "gpu2: is not in the lock. Run `gpurack lock` to pin it.",
    ]
    assert pins.unlocked({"gpu2": ALPHA}) == []


# --- what a host says ------------------------------------------------------------------------------------------------


def test_observes_versions_images_and_weights() -> None:
    wanted = check_fleet(
        {"gpu1": [{"defaults": {"engine": "llama.cpp", "version": "b7000", "weights": "/w/m-00001-of-00002.gguf"},
                   "mirrors": {"ghcr.io": "mirror:5000/ghcr"}, "models": {"alpha": {"port": 1}, "beta": {"port": 2}}}]}
    )["gpu1"]  # fmt: skip
    facts = host_state(
        gpus=1,
        packages={"docker-ce": "5:28.5.2-1", "runc": "1.1-1", "libnvidia-container1": "1.20.1-1 half", "curl": "8"},
        files={"/etc/apt/keyrings/gpurack-docker-ce.asc": KEY, "/etc/apt/keyrings/gpurack-nvidia.asc": "no key"},
    )
    facts = replace(
        facts,
        containers=(running(wanted, "alpha", facts, image="sha256:id"),),
        digests={"sha256:id": (f"elsewhere/x@sha256:{OTHER}", f"mirror:5000/ghcr/ggml-org/llama.cpp@sha256:{ONE}")},
        hashes={"/w/m-00001-of-00002.gguf": ONE, "/w/m-00002-of-00002.gguf": OTHER, "/w/other.gguf": ONE},
    )
    found = observed(wanted, facts)
    assert found == HostLock(
        driver="580.159.04",
        keys={"docker-ce": "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"},
        packages={"docker-ce": "5:28.5.2-1", "runc": "1.1-1"},
        models={
            "alpha": ModelLock(
                image=f"{IMAGE}@sha256:{ONE}",
                weights={"/w/m-00001-of-00002.gguf": ONE, "/w/m-00002-of-00002.gguf": OTHER},
            )
        },
    )
    assert missing(wanted, found) == ["beta"]


def test_does_not_pin_kept_docker() -> None:
    facts = host_state(packages={"docker-ce": "5:28.5.2-1"})
    assert observed(spec({"docker": {"source": "keep"}}), facts).packages == {}


KEYS = Path(__file__).resolve().parents[2] / "files" / "keys"
KEY = (KEYS / "docker.asc").read_text()


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("docker", "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"),
        ("nvidia", "C95B321B61E88C1809C4F759DDCAE044F796ECB0"),
    ],
)
def test_computes_fingerprints_like_gpg(name: str, published: str) -> None:
    """Printed by `gpg --show-keys files/keys/NAME.asc`; Docker's install guide lists its own as well."""
    assert fingerprint((KEYS / f"{name}.asc").read_text()) == published


@pytest.mark.parametrize(
    "wrong", ["", "no key", KEY[:200], KEY.replace("\n", "")], ids=["nothing", "text", "cut", "one line"]
)
def test_refuses_invalid_key(wrong: str) -> None:
    with pytest.raises(ValueError, match="not an armored OpenPGP key"):
        fingerprint(wrong)


@pytest.mark.parametrize(
    ("locked", "there", "source"),
    [
        ({}, {}, "docker-ce"),
        ({}, {"docker.io": "26.1.5"}, "distro"),
        ({}, {"docker-ce": "5:28.5.2-1"}, "docker-ce"),
        ({"docker.io": "26.1.5"}, {}, "distro"),
        ({"docker-ce": "5:28.5.2-1"}, {"docker.io": "26.1.5"}, "docker-ce"),
    ],
)
def test_automatic_source_is_the_locks_then_the_hosts(
    locked: dict[str, str], there: dict[str, str], source: str
) -> None:
    wanted, facts = spec().locked(HostLock(packages=locked)), host_state(packages=there)
    assert with_source(wanted, facts).docker.source == source
    kept = spec({"docker": {"source": "keep"}})
    assert with_source(kept, facts) is kept
