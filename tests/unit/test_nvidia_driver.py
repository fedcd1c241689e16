"""NVIDIA's driver: compared with the inventory, its packages held and released."""

from __future__ import annotations

from typing import Any

import pytest

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.plan.packages import apt
from gpurack.plan.steps import WriteFile
from gpurack.plan.system.nvidia_driver import driver_holds, other_driver
from gpurack.plan.system.nvidia_toolkit import plan_toolkit
from gpurack.spec.host import Host
from tests.given import host_state, models_plan, said, spec

LOADED = "580.159.04"
PACKAGES = {
    "nvidia-driver-580-server": f"{LOADED}-0ubuntu0.24.04.1",
    "libnvidia-compute-580-server": f"{LOADED}-0ubuntu0.24.04.1",
    "cuda-drivers": f"{LOADED}-1",
    "libcuda1": f"{LOADED}-1",  # Debian's
    "nvidia-container-toolkit": "1.20.1-1",
    "nvidia-prime": "0.8.17",
}
MINE = ["cuda-drivers", "libcuda1", "libnvidia-compute-580-server", "nvidia-driver-580-server"]


def wanted(driver: str | None) -> Host:
    models = {"alpha": {"gpus": [0], "port": 8000}, "cpu": {"gpus": [], "port": 8001}}
    return spec({"nvidia": {"driver": driver} if driver else {}, "models": models})


def found(**said: Any) -> HostFacts:
    return host_state(**{"gpus": 2, "packages": PACKAGES, "weights": {"/w/a.gguf": 1}, **said})


@pytest.mark.parametrize("driver", [LOADED, "580.159", "580", None])
def test_ignores_driver_without_version_in_inventory(driver: str | None) -> None:
    assert other_driver(wanted(driver), found()) is None


@pytest.mark.parametrize("driver", ["580.95.05", "58", "590.10.01"])
def test_reports_other_driver_and_serves_models(driver: str) -> None:
    host, state = wanted(driver), found()
    plan = models_plan(host, state)
    assert said(plan.errors) == {
        "driver": f"the host runs the NVIDIA driver {LOADED}, but the inventory has {driver}. gpurack installs no "
        "drivers: install it and reboot, or correct nvidia.driver. The models are served anyway."
    }
    assert sorted(change.model for change in plan.changes) == ["alpha", "cpu"]
    assert plan_toolkit(host, state, models_follow=True).errors == ()
    assert plan_toolkit(host, state).errors == (plan.errors["driver"],)
    assert driver_holds(host, state, apt) == []


def test_reports_driver_that_waits_for_reboot() -> None:
    newer = {name: version.replace(LOADED, "580.200.01") for name, version in PACKAGES.items() if LOADED in version}
    sentence = other_driver(wanted("580.200.01"), found(packages=newer))
    assert sentence is not None
    assert "580.200.01 is installed and needs a reboot." in sentence.what


def test_preferences_for_apt_are_no_driver_that_waits_for_reboot() -> None:
    more = {"nvidia-driver-pinning-590": "590-2ubuntu1", "nvidia-driver-assistant": "0.40.590-1"}
    sentence = other_driver(wanted("590"), found(packages={**PACKAGES, **more}))
    assert sentence is not None
    assert "needs a reboot" not in sentence.what


def test_holds_packages_of_driver_only() -> None:
    note, hold = driver_holds(wanted(LOADED), found(), apt)
    assert note == WriteFile(
        "note which packages of the driver are held", paths.DRIVER_HELD, "".join(f"{n}\n" for n in MINE)
    )
    assert hold.reason == f"hold {', '.join(MINE)}"
    held = {name: f"{version} held" if name in MINE else version for name, version in PACKAGES.items()}
    assert driver_holds(wanted(LOADED), found(packages=held), apt) == []


def test_releases_only_its_own_holds() -> None:
    held = {name: f"{version} held" for name, version in PACKAGES.items()}
    state = found(packages=held, files={paths.DRIVER_HELD: "cuda-drivers\ngone-since\n"})
    assert [step.reason for step in driver_holds(wanted(None), state, apt)] == [
        "no longer hold cuda-drivers", "forget that the driver was held",
    ]  # fmt: skip
    assert driver_holds(wanted(None), found(packages=held), apt) == []


def test_only_compares_driver_without_package() -> None:
    assert driver_holds(wanted(LOADED), found(packages={}), apt) == []
