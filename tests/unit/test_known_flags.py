"""Flags that an engine does not have: refused for the version whose flags we know, a warning for any other."""

import pytest

from gpurack.engines.known_flags import known
from gpurack.spec.fleet import check_fleet
from gpurack.spec.problems import InventoryError
from gpurack.spec.warnings import warnings


def vllm(version: str, **args: object) -> dict[str, object]:
    model = {"engine": "vllm", "version": version, "weights": "/w/m", "gpus": [0], "port": 8000, "args": args}
    return {"hardware": {"A30": 1}, "models": {"alpha": model}}


def said(version: str, **args: object) -> list[str]:
    """The warnings about flags."""
    fleet = check_fleet({"gpu1": [vllm(version, **args)]})
    return [problem.what for problem in warnings(fleet) if "args." in problem.what]


def test_an_unknown_flag_of_the_known_version_is_refused_with_the_nearest() -> None:
    with pytest.raises(InventoryError) as refused:
        check_fleet({"gpu1": [vllm("0.32.0", **{"enable-prefix-cachin": True})]})
    assert (
        "gpu1 models.alpha.args.enable-prefix-cachin: vllm 0.32.0 has no --enable-prefix-cachin; did you mean"
        in str(refused.value)
    )


def test_for_another_version_it_is_a_warning() -> None:
    (warning,) = said("0.40.0", **{"flag-of-tomorrow": 1})
    assert warning.startswith("args.flag-of-tomorrow: vllm 0.32.0 has no --flag-of-tomorrow")
    assert warning.endswith("0.40.0 may.")


@pytest.mark.parametrize("flag", ["enable-prefix-caching", "enable_prefix_caching", "speculative-config.method", "tp"])
def test_known_flags_in_every_spelling_are_quiet(flag: str) -> None:
    assert said("0.40.0", **{flag: 1}) == []


GONE = {"task": "embed", "swap_space": 4, "disable-log-requests": True}


@pytest.mark.parametrize("version", ["0.18.0", "0.33.0", "1.0"])
def test_flags_of_2024_are_refused_where_all_of_them_are_gone(version: str) -> None:
    with pytest.raises(InventoryError) as refused:
        check_fleet({"gpu1": [vllm(version, **GONE)]})
    assert len(refused.value.problems) == len(GONE)
    assert "vllm has no --swap-space any more: the nearest is --kv-offloading-size." in str(refused.value)


@pytest.mark.parametrize("version", ["0.6.4", "0.6.4.post1", "0.17.1", "nightly"])
def test_a_version_that_may_have_them_is_warned_of(version: str) -> None:
    assert said(version, **{"swap-space": 4}) == [
        f"args.swap-space: vllm 0.18 has no --swap-space any more: the nearest is --kv-offloading-size. {version} may."
    ]


def test_so_is_an_image_whose_version_nobody_knows() -> None:
    host = vllm("0.6.4", **{"swap-space": 4})
    host["models"]["alpha"] |= {"version": None, "image": "lab/vllm:1"}  # type: ignore[index]
    (warning,) = (problem.what for problem in warnings(check_fleet({"gpu1": [host]})) if "args." in problem.what)
    assert warning.endswith("the nearest is --kv-offloading-size. The image may.")


def test_the_lists_name_their_version() -> None:
    assert known("vllm")[0] == "0.32.0"
    assert known("llama.cpp")[0] == "b11669"
    assert {"m", "ngl", "ctx-size", "api-key-file", "embeddings"} <= known("llama.cpp")[1]
    assert known("ollama") == ("", frozenset())
