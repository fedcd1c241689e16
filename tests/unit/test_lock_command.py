"""`gpurack lock` when hosts cannot be inspected: what it writes, prints and returns."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from gpurack.commands import lock
from gpurack.commands.main import main
from gpurack.facts.model import HostFacts
from gpurack.inventory.lock_file import read_lock
from gpurack.spec.lock import HostLock, Lock, text
from tests.given import host_state

OFF = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf", "port": 8000, "enabled": False}
UNREACHABLE = HostFacts.not_inspected("could not connect: no route to host")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two hosts, neither of which answers."""
    path = tmp_path / "lab.py"
    path.write_text(f'lab = [("gpu1", {{"models": {{"alpha": {OFF}}}}}), "gpu2"]\n')
    monkeypatch.setattr(lock, "on_all_hosts", lambda loaded, fleet, look: dict.fromkeys(fleet, UNREACHABLE))
    return path


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["lock", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


@pytest.mark.parametrize("options", [(), ("--upgrade",)])
def test_writes_no_lock_if_no_host_was_inspected(lab: Path, options: tuple[str, ...]) -> None:
    code, output = run(lab, *options)
    assert code == 1
    assert "gpu1  error  could not connect" in output
    assert output.endswith("No host could be inspected. Nothing was written.\n")
    assert read_lock(lab) is None


@pytest.mark.parametrize("options", [(), ("--upgrade",)])
def test_keeps_entry_of_unreachable_host_and_adds_none(lab: Path, options: tuple[str, ...]) -> None:
    before = Lock(hosts={"gpu1": HostLock(driver="580.159.04")})
    (lab.parent / "lab.lock.yaml").write_text(text(before, lab))
    assert run(lab, *options)[0] == 1
    assert read_lock(lab) == before


def test_check_reports_that_nothing_was_compared(lab: Path) -> None:
    (lab.parent / "lab.lock.yaml").write_text(text(Lock(hosts={"gpu1": HostLock(driver="580.159.04")}), lab))
    code, output = run(lab, "--check")
    assert code == 1
    assert output.endswith("Nothing could be compared.\n")


def test_check_names_hosts_that_it_could_not_compare(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "on_all_hosts", lambda loaded, fleet, look: {"gpu1": HostFacts(), "gpu2": UNREACHABLE})
    monkeypatch.setattr(lock, "observed", lambda wanted, seen: HostLock(driver="580.159.04"))
    (lab.parent / "lab.lock.yaml").write_text(text(Lock(hosts={"gpu1": HostLock(driver="580.159.04")}), lab))
    code, output = run(lab, "--check")
    assert code == 1
    assert "All other hosts match " in output


def test_check_prints_json_for_programs(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "on_all_hosts", lambda loaded, fleet, look: {"gpu1": HostFacts(), "gpu2": UNREACHABLE})
    monkeypatch.setattr(lock, "observed", lambda wanted, seen: HostLock(driver="580.159.04"))
    locked = {"gpu1": HostLock(driver="580.95.05"), "gpu3": HostLock()}
    (lab.parent / "lab.lock.yaml").write_text(text(Lock(hosts=locked), lab))
    result = CliRunner().invoke(main, ["lock", str(lab), "--check", "--json"])
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    drift = [{"fact": "driver", "locked": "580.95.05", "found": "580.159.04"}]
    assert (said["schema"], said["hosts"]) == (1, {"gpu1": {"drift": drift}})
    assert [(error["host"], error["code"], error["what"]) for error in said["errors"]] == [
        ("gpu2", "not-inspected", "could not connect: no route to host"),
        (
            "gpu3",
            "locked-host-unknown",
            f"is in the lock but not in the inventory. Run `gpurack lock {lab}` to remove it.",
        ),
    ]
    assert "gpu1  driver  580.95.05 → 580.159.04\n1 drifted from " in result.stderr


def test_check_prints_json_without_a_lock_file(lab: Path) -> None:
    result = CliRunner().invoke(main, ["lock", str(lab), "--check", "--json"])
    assert result.exit_code == 2
    assert json.loads(result.stdout)["errors"][0]["code"] == "no-lock"


def test_json_is_for_check_only(lab: Path) -> None:
    code, output = run(lab, "--json")
    assert code == 2
    assert "--json requires --check." in output


def test_check_names_hosts_missing_in_inventory(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebuild would not restore them, although the lock lists them."""
    locked = HostLock(driver="580.159.04")
    monkeypatch.setattr(lock, "on_all_hosts", lambda loaded, fleet, look: dict.fromkeys(fleet, HostFacts()))
    monkeypatch.setattr(lock, "observed", lambda wanted, seen: locked)
    path = lab.parent / "lab.lock.yaml"
    path.write_text(text(Lock(hosts=dict.fromkeys(("gpu1", "gpu2", "gpu3"), locked)), lab))
    code, output = run(lab, "--check")
    assert code == 1
    assert output.startswith("gpu3  error  is in the lock but not in the inventory. Run `gpurack lock ")
    assert "All other hosts match " in output
    assert run(lab)[0] == 0
    assert run(lab, "--check")[0] == 0


@pytest.mark.parametrize(("held", "named"), [("", True), (" held", False)])
def test_names_hosts_whose_locked_packages_are_not_on_hold(
    lab: Path, monkeypatch: pytest.MonkeyPatch, held: str, named: bool
) -> None:
    """Only a run holds them. It holds no toolkit on a host without GPUs."""
    there = {"docker-ce": f"5:28.5.2-1{held}", "nvidia-container-toolkit": "1.20.1-1"}
    seen = {"gpu1": host_state(packages=there), "gpu2": UNREACHABLE}
    monkeypatch.setattr(lock, "on_all_hosts", lambda loaded, fleet, look: seen)
    last = run(lab)[1].splitlines()[-1]
    sentence = f"The locked packages are not on hold yet: gpu1. Hold them: gpurack apply {lab}"
    assert last == (sentence if named else f"Wrote {lab.parent / 'lab.lock.yaml'}. Commit it.")


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("lock", "--check"), "the lock file does not exist yet. Run `gpurack lock"),
        (("lock", "bogus", "--upgrade"), 'unknown part of the lock "bogus". Known: '),
        (("manifest", "gpu3"), 'unknown host "gpu3". Did you mean "gpu'),
    ],
)
def test_missing_lock_or_host_is_not_an_inventory_error(lab: Path, command: tuple[str, ...], sentence: str) -> None:
    result = CliRunner().invoke(main, [command[0], str(lab), *command[1:]])
    assert result.exit_code == 2
    assert sentence in result.output
    assert "before applying" not in result.output
