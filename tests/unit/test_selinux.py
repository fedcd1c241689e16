"""SELinux and firewalld: reported to the admin, who decides. Nothing is relabelled, opened or disabled."""

from typing import Any

import pytest

from gpurack.facts.model import HostFacts
from gpurack.facts.weights import labels
from gpurack.plan.system.docker import plan_docker
from gpurack.spec.host import Docker, Host
from tests.given import docker_info, host_state, models, models_plan, said

WEIGHTS = "/data/models/alpha.gguf"
CONFINED = docker_info(SecurityOptions=["name=seccomp,profile=builtin", "name=selinux"])


def rocky(label: str | None, info: Any = CONFINED, **over: Any) -> HostFacts:
    found = {"os": "rocky 9", "weights": {WEIGHTS: 3_000_000}, "labels": {WEIGHTS: label} if label else {}}
    return host_state(**{**found, "docker": info, **over})


def errors(label: str | None, info: Any = CONFINED, **fields: Any) -> dict[str, str]:
    wanted = models(alpha={"weights": WEIGHTS, "gpus": [], **fields})
    return said(models_plan(wanted, rocky(label, info)).errors)


def test_reports_label_that_containers_cannot_read() -> None:
    assert errors("user_home_t") == {
        "alpha": f"SELinux does not allow containers to read the weights {WEIGHTS} (label user_home_t). "
        "Relabel them: semanage fcontext -a -t container_ro_file_t "
        f"'{WEIGHTS}(/.*)?' && restorecon -R {WEIGHTS}; or set compose: "
        '{"security_opt": ["label=disable"]} for this model.'
    }


@pytest.mark.parametrize("label", ["container_file_t", "container_ro_file_t", "usr_t", "nfs_t"])
def test_accepts_readable_labels(label: str) -> None:
    assert errors(label) == {}


def test_skips_check_without_confinement() -> None:
    assert errors("user_home_t", docker_info(SecurityOptions=["name=seccomp,profile=builtin"])) == {}
    assert errors("user_home_t", docker_info()) == {}
    assert errors(None) == {}
    assert errors("user_home_t", compose={"security_opt": ["label=disable"]}) == {}


def test_relabels_no_mount() -> None:
    wanted = models(alpha={"weights": WEIGHTS, "gpus": []})
    plan = models_plan(wanted, rocky("container_file_t"))
    assert plan.job
    assert "selinux" not in str(plan.job)


def test_parses_labels_of_weights() -> None:
    assert labels([f"unconfined_u:object_r:user_home_t:s0|{WEIGHTS}", "?|/x"]) == {WEIGHTS: "user_home_t"}


@pytest.mark.parametrize(("unit", "note"), [("loaded active enabled", True), ("loaded inactive disabled", False)])
def test_mentions_firewalld_with_new_docker(unit: str, note: bool) -> None:
    state = rocky(None, "", units={"firewalld.service": unit})
    plan = plan_docker(Host(docker=Docker()), state, True)
    reason = next(step.reason for step in plan.steps if step.reason.startswith("install docker-ce"))
    assert ("firewalld runs: published ports go through Docker's own zone" in reason) is note
    assert not any("firewall" in getattr(step, "command", "") for step in plan.steps)
