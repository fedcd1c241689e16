"""The memory estimate: the table of facts/engines.md, what raises the need, what is refused, and the wording."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack.engines import ENGINES
from gpurack.engines.container import Run
from gpurack.engines.memory import NotEstimated
from gpurack.facts.gpus import Gpu
from gpurack.facts.parts import Header
from gpurack.plan.models.memory import GIB, Estimate, estimate, refusal, tight
from gpurack.plan.offline import sizes
from gpurack.spec.gpus import GpuSlot
from gpurack.spec.host import Host
from gpurack.spec.model import Model
from tests.given import host_state, models, models_plan, running, uuid
from tests.weights import QWEN, folder, qwen, read

A30 = 23.5
"""GiB of the table's GPU."""


def vllm(gpus: int = 1, **fields: Any) -> Model:
    words = {"engine": "vllm", "weights": "/w/m", "gpus": list(range(gpus)), "version": "0.33.0", **fields}
    return models(alpha=words).models["alpha"]


def llama(gpus: int = 1, **fields: Any) -> Model:
    return models(alpha={"gpus": list(range(gpus)), **fields}).models["alpha"]


def cards(count: int, memory: float | None = A30) -> list[GpuSlot]:
    return [GpuSlot(number, f"GPU-{number}", memory=memory) for number in range(count)]


def gguf(size: float = 4.0, architecture: str = "llama", **config: Any) -> Header:
    """The header of a GGUF with this many GiB, in the shape of Llama 2 7B."""
    shape = {"block_count": 32, "context_length": 4096, "embedding_length": 4096, "attention.head_count": 32}
    said = {f"{architecture}.{key}": value for key, value in {**shape, **config}.items()}
    return Header(
        "1", "gguf", {"GGUF": int(size * GIB)}, {"general.architecture": architecture, "vocab": 32000, **said}
    )


def hf(size: float = 14.0, dtype: str = "BF16", **config: Any) -> Header:
    """The header of a folder with this many GiB, in the shape of Qwen2.5 7B; None removes a key of its config."""
    words = {**QWEN["7B"], "rope": "default", **config}
    said = {key: value for key, value in words.items() if value is not None}
    return Header("1", "safetensors", {dtype: int(size * GIB)}, said)


# --- the table -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "tensor", "weights", "per_token", "tokens"),
    [
        ("7B", 1, 14.2, 56, 111_000),
        ("14B", 1, 27.5, 192, None),
        ("14B", 2, 13.8, 96, 69_000),
        ("32B", 2, 30.5, 128, None),
        ("32B", 4, 15.3, 64, 80_000),
    ],
)
def test_matches_table_of_engines(
    tmp_path: Path, size: str, tensor: int, weights: float, per_token: float, tokens: int | None
) -> None:
    header = read(qwen(tmp_path, size))
    model = vllm(tensor, context=32768)
    need = estimate(model, header, tensor)
    assert need.weights == pytest.approx(weights, rel=0.02)
    assert need.kv * GIB / need.tokens / 1024 == pytest.approx(per_token, rel=0.02)
    assert (refusal(model, header, cards(tensor)) is None) is (tokens is not None)
    if tokens:
        room = 0.92 * A30 - need.weights - need.overhead
        assert room / need.kv * need.tokens == pytest.approx(tokens, rel=0.02)


def test_matches_figures_of_vocabulary(tmp_path: Path) -> None:
    """The map in vocabulary.md, of the lab with four A30."""
    for size, tensor, drawn in (("7B", 1, 17.4), ("14B", 2, 18.3), ("32B", 4, 18.8)):
        need = estimate(vllm(tensor, context=32768), read(qwen(tmp_path, size)), tensor)
        assert need.total == pytest.approx(drawn, abs=0.06)


def test_estimates_llama_2_13b_of_facts() -> None:
    """25 GiB of KV cache at 8192 tokens for each of 4 requests (vocabulary.md)."""
    header = gguf(7.0, **{"block_count": 40, "embedding_length": 5120, "attention.head_count": 40})
    assert estimate(llama(context=8192, args={"parallel": 4}), header, 1).kv == pytest.approx(25, rel=0.02)


# --- what needs more, what less ------------------------------------------------------------------------------------

SHAPES = st.fixed_dictionaries(
    {
        "num_hidden_layers": st.integers(1, 96),
        "num_attention_heads": st.sampled_from([8, 16, 32, 64]),
        "num_key_value_heads": st.sampled_from([1, 2, 4, 8]),
        "head_dim": st.sampled_from([64, 128, 256]),
    }
)


@given(shape=SHAPES, size=st.floats(0.1, 200), one=st.integers(1, 200_000), more=st.integers(0, 200_000))
def test_more_context_never_needs_less(shape: dict[str, int], size: float, one: int, more: int) -> None:
    for of, header in ((vllm, hf(size, **shape)), (llama, gguf(size))):
        small, large = (estimate(of(context=context), header, 1) for context in (one, one + more))
        assert small.total <= large.total
        assert small.minimum <= small.total


@given(shape=SHAPES, size=st.floats(0.1, 200), tensor=st.sampled_from([1, 2, 4, 8]), context=st.integers(1, 100_000))
def test_tensor_parallel_divides_need(shape: dict[str, int], size: float, tensor: int, context: int) -> None:
    header = hf(size, **shape)
    one, split = (estimate(vllm(count, context=context), header, count) for count in (1, tensor))
    assert split.weights * tensor == pytest.approx(one.weights)
    # every GPU keeps at least one KV head, so together they may keep more than one GPU would
    assert one.kv / tensor <= split.kv * (1 + 1e-9)
    assert split.kv <= one.kv
    if shape["num_key_value_heads"] % tensor == 0:
        assert split.kv * tensor == pytest.approx(one.kv)


@given(
    memory=st.floats(1, 200),
    context=st.integers(256, 200_000),
    size=st.floats(0.5, 100),
    gpus=st.sampled_from([1, 2, 4]),
)
def test_refuses_exactly_what_exceeds_the_gpu(memory: float, context: int, size: float, gpus: int) -> None:
    for model, header in ((vllm(gpus, context=context), hf(size)), (llama(gpus, context=context), gguf(size))):
        error = refusal(model, header, cards(gpus, memory))
        need = estimate(model, header, gpus)
        assert (error is None) is (need.minimum <= (0.92 * memory if model.engine == "vllm" else memory))
        assert error is None or tight(model, header, cards(gpus, memory)) is None
        # the context in the hint fits, and one step more does not
        if error and (found := re.search(r"context: (\d+)", error)):
            fits = model.model_copy(update={"context": int(found[1])})
            assert refusal(fits, header, cards(gpus, memory)) is None
            larger = model.model_copy(update={"context": int(found[1]) + 256})
            assert refusal(larger, header, cards(gpus, memory)) is not None
        if error and (found := re.search(r"give it (\d+) cards", error)):
            wider = model.model_copy(update={"gpus": list(range(int(found[1])))})
            assert refusal(wider, header, cards(int(found[1]), memory)) is None


def test_pipeline_stages_and_fp8_reduce_need() -> None:
    header = hf(28.0)
    whole = estimate(vllm(context=1000), header, 1)
    stages = estimate(vllm(2, context=1000, args={"pipeline-parallel-size": 2}), header, 2)
    assert (stages.weights, stages.kv) == (whole.weights / 2, whole.kv / 2)
    small = estimate(vllm(context=1000, args={"kv_cache_dtype": "fp8"}), header, 1)
    assert small.kv == whole.kv / 2


def test_counts_32_bit_weights_as_16_bit() -> None:
    assert estimate(vllm(context=10), hf(2.0, "F32"), 1).weights == pytest.approx(1.0)
    assert estimate(vllm(context=10, args={"dtype": "float32"}), hf(2.0, "F32"), 1).weights == pytest.approx(2.0)
    assert estimate(vllm(context=10), hf(2.0, "F32", quantization="awq"), 1).weights == pytest.approx(2.0)
    assert estimate(vllm(context=10), hf(2.0, "F8_E4M3"), 1).weights == pytest.approx(2.0)


def test_encoders_have_no_kv_cache() -> None:
    bert = hf(1.2, model_type="xlm-roberta", num_key_value_heads=None, max_position_embeddings=8194)
    assert estimate(vllm(), bert, 1).kv == 0
    assert estimate(llama(), gguf(1.0, "bert"), 1).kv == 0


@pytest.mark.parametrize(
    ("fields", "cells"),
    [
        ({"context": 1000}, 1024),
        ({"context": 1000, "args": {"parallel": 3}}, 3072),
        ({"context": 1000, "args": {"parallel": 3, "kv-unified": True}}, 1024),
        ({"args": {"np": 3}}, 4608),
        ({}, 4096),
        ({"context": 1000, "args": {"parallel": -1}}, 1024),
        ({"context": 1000, "args": {"parallel": 2, "kvu": False}}, 2048),
    ],
)
def test_counts_kv_cells_like_llama_server(fields: dict[str, Any], cells: int) -> None:
    """As logged by llama-server (build 11669) with these flags."""
    assert estimate(llama(**fields), gguf(), 1).tokens == cells


def test_every_slot_of_llama_server_has_full_context() -> None:
    def command(**fields: Any) -> str:
        return " ".join(ENGINES["llama.cpp"].container(llama(**fields), Run("alpha", "/w/a.gguf")).command or [])

    assert "--ctx-size 3000 " in command(context=1000, args={"parallel": 3})
    assert "--ctx-size 1000 " in command(context=1000, args={"parallel": 3, "kv-unified": True})
    assert "--ctx-size 1000" in command(context=1000)


def test_quantized_kv_cache_needs_less() -> None:
    need = estimate(llama(context=1024, args={"cache-type-k": "q8_0", "ctv": "f32"}), gguf(), 1)
    assert need.kv * GIB == 1024 * 32 * 4096 * (34 / 32 + 4)


def test_redundant_flags_change_nothing() -> None:
    whole = estimate(llama(), gguf(), 1)
    assert estimate(llama(args={"ngl": 99}), gguf(), 1) == estimate(llama(args={"ngl": "all"}), gguf(), 1) == whole
    quantized = hf(2.0, "I32", quantization="awq")
    assert estimate(vllm(context=10, args={"quantization": "awq"}), quantized, 1).weights == pytest.approx(2.0)


def test_divides_layers_between_gpus() -> None:
    one, three = estimate(llama(), gguf(), 1), estimate(llama(3), gguf(), 3)
    assert three.weights == pytest.approx(one.weights / 3)
    assert three.kv == pytest.approx(one.kv * 11 / 32)  # one GPU has 11 of 32 layers


# --- not estimated -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, "its weights have not been inspected yet"),
        (Header("1", problem="m.gguf is cut off"), "m.gguf is cut off"),
        (hf(kv_lora_rank=512, model_type="deepseek_v3"), "deepseek_v3 compresses its KV cache (MLA)"),
        (hf(model_type="qwen3_next", layer_types=["linear_attention", "full_attention"]),
         "qwen3_next is a hybrid (linear_attention)"),
        (hf(model_type="mistral", use_sliding_window=None, sliding_window=4096),
         "its attention slides over 4096 tokens, so it keeps less than the formula says"),
        (hf(model_type="gemma3", text_config=True), "gemma3 is made of several models"),
        (hf(model_type="mamba"), "gpurack has no formula for the architecture mamba"),
        (hf(num_hidden_layers=None), "their header lacks what the formula needs"),
        (hf(num_attention_heads="28"), "their header lacks what the formula needs"),
        (Header("1", "safetensors"), "gpurack has no formula for the architecture None"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_does_not_refuse_without_estimate(header: Header | None, reason: str) -> None:
    model = vllm(context=8192)
    with pytest.raises(NotEstimated, match=re.escape(reason)):
        estimate(model, header, 1)
    assert refusal(model, header, cards(1, 1.0)) is None
    assert tight(model, header, cards(1, 1.0)) is None


def test_window_larger_than_context_changes_nothing() -> None:
    header = hf(model_type="mistral", use_sliding_window=None, sliding_window=4096)
    assert estimate(vllm(context=4096), header, 1) == estimate(vllm(context=4096), hf(), 1)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (gguf(architecture="deepseek2", **{"attention.kv_lora_rank": 512}), "deepseek2 compresses its KV cache (MLA)"),
        (gguf(architecture="jamba", **{"ssm.state_size": 16}), "jamba is a hybrid"),
        (gguf(architecture="gemma3"), "gpurack has no formula for the architecture gemma3"),
        (gguf(**{"attention.head_count_kv": [8, 4]}), "its layers differ from each other"),
        (gguf(architecture="phi3", **{"attention.sliding_window": 2047}), "its attention slides over 2047 tokens"),
        (gguf(**{"block_count": "many"}), "their header lacks what the formula needs"),
        (Header("1", "gguf", {"GGUF": 1}, {"general.architecture": None}), "gpurack has no formula"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_does_not_estimate_unknown_gguf(header: Header, reason: str) -> None:
    with pytest.raises(NotEstimated, match=re.escape(reason)):
        estimate(llama(), header, 1)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (llama(args={"n-gpu-layers": 32}), "args.n-gpu-layers changes what is on the GPUs"),
        (llama(args={"ngl": -1}), "args.ngl changes what is on the GPUs"),
        (llama(args={"mmproj": "/x"}), "args.mmproj changes what is on the GPUs"),
        (llama(args={"ub": "many"}), "ubatch-size many is not a number"),
        (llama(args={"cache-type-k": "new"}), "gpurack does not know the KV cache's type new"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_does_not_estimate_llama_cpp_with_offload_flags(model: Model, reason: str) -> None:
    with pytest.raises(NotEstimated, match=re.escape(reason)):
        estimate(model, gguf(), 1)


@pytest.mark.parametrize(
    ("fields", "header", "reason"),
    [
        ({"args": {"quantization": "fp8"}}, hf(), "args.quantization changes what is on the GPUs"),
        ({"args": {"dtype": "int3"}}, hf(), "gpurack does not know the data type int3"),
        ({"args": {"kv-cache-dtype": "nvfp4"}}, hf(), "gpurack does not know the data type nvfp4"),
        ({}, hf(rope="yarn"), "the weights do not state their context: set `context`"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_does_not_estimate_vllm_with_flags_that_change_the_need(
    fields: dict[str, Any], header: Header, reason: str
) -> None:
    with pytest.raises(NotEstimated, match=re.escape(reason)):
        estimate(vllm(**fields), header, 1)


# --- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "tensor", "fields", "need", "have", "remedy"),
    [
        ("14B", 1, {"context": 4096}, "29.3 GiB (weights 27.5, KV cache 0.8 for 4096 tokens",
         "GPU 0 has 21.6 for it", "Give it 2 GPUs or choose smaller weights."),
        ("7B", 1, {"context": 200_000}, "25.9 GiB (weights 14.2, KV cache 10.7 for 200000 tokens",
         "GPU 0 has 21.6 for it", "Set context: 120320, give it 2 GPUs or choose smaller weights."),
        ("7B", 1, {"context": 32768, "vram": "16GiB"}, "16.9 GiB (weights 14.2, KV cache 1.8 for 32768 tokens",
         "vram gives it 16.0 of GPU 0",
         "Set context: 15104, raise vram to 17GiB, give it 2 GPUs or choose smaller weights."),
        ("7B", 1, {"context": 4096, "args": {"gpu-memory-utilization": 0.5}},
         "15.4 GiB (weights 14.2, KV cache 0.2 for 4096 tokens",
         "GPU 0 has 11.8 for it", "Give it 2 GPUs or choose smaller weights."),
        ("32B", 2, {"context": 4096}, "32.0 GiB on each GPU (weights 30.5, KV cache 0.5 for 4096 tokens",
         "GPU 0 has 21.6 for it", "Give it 4 GPUs or choose smaller weights."),
    ],
)  # fmt: skip
def test_refuses_with_numbers_and_hint(
    tmp_path: Path, size: str, tensor: int, fields: dict[str, Any], need: str, have: str, remedy: str
) -> None:
    sentence = f"needs {need}, overhead 1.0 or more), but {have}. {remedy}"
    assert refusal(vllm(tensor, **fields), read(qwen(tmp_path, size)), cards(tensor)) == sentence


def test_refuses_tensor_parallel_that_does_not_divide_heads(tmp_path: Path) -> None:
    header = read(qwen(tmp_path, "7B"))
    refused = "tensor parallel 8 does not divide its 28 attention heads; possible: 1, 2, 4, 7, 14. Or layers in "
    assert refusal(vllm(8, context=4096), header, cards(8)) == (
        f'{refused}stages, over all 8 GPUs: args: {{"tensor-parallel-size": 4, "pipeline-parallel-size": 2}}.'
    )
    sglang = vllm(8, context=4096, engine="sglang", version="0.5.23")
    assert refusal(sglang, header, cards(8)) == (
        f'{refused}stages, over all 8 GPUs: args: {{"tp-size": 4, "pp-size": 2}}.'
    )


def test_accepts_pipeline_stages_of_its_own_hint(tmp_path: Path) -> None:
    header = read(qwen(tmp_path, "7B"))
    for engine, flags in (("vllm", ("tensor-parallel-size", "pipeline-parallel-size")), ("sglang", ("tp", "pp-size"))):
        version = {"vllm": "0.33.0", "sglang": "0.5.23"}[engine]
        for gpus in (3, 5, 6, 8, 12):
            of = {"engine": engine, "version": version, "context": 4096}
            refused = refusal(vllm(gpus, **of), header, cards(gpus))
            assert refused
            sizes_named = [int(number) for number in re.findall(r"\": (\d+)", refused)]
            args = dict(zip(flags, sizes_named, strict=True))
            assert refusal(vllm(gpus, args=args, **of), header, cards(gpus)) is None


def test_checks_heads_also_without_memory_estimate() -> None:
    header = hf(kv_lora_rank=512, num_attention_heads=128)
    assert refusal(vllm(3, context=10), header, cards(3, None)) == (
        "tensor parallel 3 does not divide its 128 attention heads; possible: 1, 2, 4, 8, 16. Or layers in stages, "
        'over all 3 GPUs: args: {"tensor-parallel-size": 1, "pipeline-parallel-size": 3}.'
    )


def test_unknown_sizes_are_not_refused() -> None:
    assert refusal(vllm(context=10), None, cards(1)) is None
    assert refusal(vllm(context=10), hf(999.0), cards(1, None)) is None
    assert refusal(llama(0), gguf(999.0), []) is None


def test_warns_if_tight(tmp_path: Path) -> None:
    header = read(qwen(tmp_path, "7B"))
    model = vllm(context=115_000)
    assert refusal(model, header, cards(1)) is None
    assert tight(model, header, cards(1)) == "is tight: it usually takes 21.8 GiB of a GPU and has 21.6."


# --- the plan ------------------------------------------------------------------------------------------------------


def fleet_of(**entries: Any) -> dict[str, Host]:
    host = models(**entries)
    return {"gpu1": host.model_copy(update={"hardware": {"A30": 4}})}


def test_offline_estimate_uses_remembered_headers() -> None:
    fleet = fleet_of(
        alpha={"gpus": [0], "weights": "/w/a.gguf"},
        beta={"gpus": [1, 2], "weights": "/w/b.gguf"},
        gamma={"gpus": [], "weights": "/w/a.gguf"},
        off={"gpus": [3], "weights": "/w/b.gguf", "enabled": False},
    )
    remembered = {"gpu1": {"/w/a.gguf": replace(gguf(), seen="2026-11-19"), "/w/z.gguf": replace(gguf(), seen="2020")}}
    found = sizes(fleet, remembered)
    assert set(found.estimates) == {("gpu1", "alpha"), ("gpu1", "gamma")}
    assert list(found.reasons) == [("gpu1", "beta")]
    assert (found.seen, found.problems, found.warnings) == ("2026-11-19", (), ())
    assert isinstance(found.estimates["gpu1", "alpha"], Estimate)


def test_offline_needs_hardware_for_all_gpus() -> None:
    fleet = {"gpu1": models(alpha={"gpus": "all", "weights": "/w/a.gguf"})}
    found = sizes(fleet, {"gpu1": {"/w/a.gguf": gguf()}})
    assert found.reasons == {("gpu1", "alpha"): "its GPUs are not known; write hardware"}


def test_offline_refusal_names_host_and_model() -> None:
    fleet = fleet_of(alpha={"gpus": [0], "weights": "/w/a.gguf"})
    found = sizes(fleet, {"gpu1": {"/w/a.gguf": replace(gguf(30.0), seen="2026-11-19")}})
    assert [str(problem) for problem in found.problems] == [
        "gpu1 models.alpha: needs 32.3 GiB (weights 30.0, KV cache 2.0 for 4096 tokens, overhead 0.3 or more), but "
        "GPU 0 (A30) has 24.0 for it. Give it 2 GPUs or choose smaller weights. Weights as seen 2026-11-19."
    ]


def test_run_uses_real_gpus() -> None:
    wanted = models(alpha={"gpus": [1], "weights": "/w/a.gguf"}, beta={"gpus": [0], "weights": "/w/b.gguf"})
    headers = {"/w/a.gguf": gguf(30.0), "/w/b.gguf": gguf(10.0)}
    facts = host_state(gpus=2, headers=headers, weights={"/w/a.gguf": 1, "/w/b.gguf": 1})
    plan = models_plan(wanted, facts)
    assert list(plan.errors) == ["alpha"]
    assert plan.errors["alpha"].what.endswith(
        "but GPU 1 (NVIDIA A30) has 23.6 for it. Give it 2 GPUs or choose smaller weights. This model was not changed."
    )
    assert [change.model for change in plan.changes] == ["beta"]


def test_does_not_refuse_running_model() -> None:
    wanted = models(alpha={"gpus": [0], "weights": "/w/a.gguf"})
    facts = host_state(gpus=1, headers={"/w/a.gguf": gguf(30.0)}, weights={"/w/a.gguf": 1})
    facts = replace(facts, containers=(running(wanted, "alpha", facts, (uuid(0),)),))
    assert models_plan(wanted, facts).errors == {}
    longer = models(alpha={"gpus": [0], "weights": "/w/a.gguf", "context": 9000})
    assert list(models_plan(longer, facts).errors) == ["alpha"]


def test_smallest_gpu_counts() -> None:
    wanted = models(alpha={"gpus": [0, 1], "weights": "/w/a.gguf"})
    big = Gpu(1, uuid(1), "NVIDIA H200", 143_771, 0, "580.159.04", "9.0", "0:1")
    facts = host_state(gpus=1, headers={"/w/a.gguf": gguf(50.0)}, weights={"/w/a.gguf": 1})
    facts = replace(facts, gpus=(*facts.gpus, big))
    assert "GPU 0 (NVIDIA A30) has 23.6" in models_plan(wanted, facts).errors["alpha"].what


def test_refuses_huge_hub_folder_from_its_files(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", {**QWEN["7B"], "rope_scaling": {"rope_type": "llama3"}}, {"a": (2**30, 16)})
    assert refusal(vllm(), read(path), cards(1)) is not None
