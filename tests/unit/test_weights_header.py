"""The reader of weights' headers: compared with the gguf package, real layouts, damaged files, and the cache of
headers.
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpurack.facts import remembered
from gpurack.facts.model import HostFacts
from gpurack.facts.parse import parse
from gpurack.facts.parts import Header
from gpurack.facts.snapshot import script
from gpurack.plan.questions import questions
from tests.given import framed, models
from tests.testbed import gguf_models
from tests.unit.host_programs import plain, without_parts
from tests.weights import FILES, QWEN, folder, qwen, read, reader, safetensors

pytestmark = pytest.mark.sampled

SMALL = {"model_type": "llama", "num_attention_heads": 4, "num_hidden_layers": 2, "hidden_size": 64}


def by_the_package(path: Path) -> tuple[int, dict[str, Any]]:
    """(bytes of tensors, values) as read by ggml's own Python package."""
    import gguf  # not above: where numpy is imported, hypothesis seeds its random numbers for each example of all tests

    file = gguf.GGUFReader(path)
    return sum(int(tensor.n_bytes) for tensor in file.tensors), {
        key: field.contents() for key, field in file.fields.items()
    }


@pytest.mark.parametrize(("layers", "hidden"), [(1, 64), (3, 96)])
def test_reads_testbed_models_like_gguf_package(tmp_path: Path, layers: int, hidden: int) -> None:
    gguf_models.say(tmp_path / "a.gguf", "Alpha speaks.", layers=layers, hidden=hidden)
    size, values = by_the_package(tmp_path / "a.gguf")
    header = read(tmp_path / "a.gguf")
    assert (header.kind, header.problem, sum(header.tensors.values())) == ("gguf", "", size)
    assert header.config["vocab"] == len(values["tokenizer.ggml.tokens"])
    expected = {key: value for key, value in values.items() if key.startswith("llama.")}
    assert {key: value for key, value in header.config.items() if key.startswith("llama.")} == expected
    assert (header.config["general.architecture"], header.config["chat_template"]) == ("llama", True)


def written(path: Path, blocks: list[int], **values: Any) -> Path:
    """A file written by the package, with this many blocks of Q4_K tensors, and values of every type."""
    import gguf
    import numpy

    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(len(blocks))
    writer.add_head_count_kv([2] * len(blocks))
    writer.add_array("tokenizer.ggml.tokens", [f"t{number}" for number in range(1025)])
    writer.add_array("tokenizer.ggml.scores", [0.5] * 1025)
    writer.add_string("general.name", "ein Name, über alles")
    writer.add_bool("qwen2.flag", True)
    writer.add_float64("qwen2.double", 0.5)
    writer.add_int64("qwen2.negative", -(2**40))
    for key, value in values.items():
        writer.add_uint32(key, value)
    for number, count in enumerate(blocks):
        data = numpy.zeros((count, 144), dtype=numpy.uint8)
        writer.add_tensor(f"blk.{number}.weight", data, raw_dtype=gguf.GGMLQuantizationType.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@settings(max_examples=12)
@given(blocks=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_sums_quantized_tensors_up_to_padding(tmp_path_factory: pytest.TempPathFactory, blocks: list[int]) -> None:
    path = written(tmp_path_factory.mktemp("gguf") / "m.gguf", blocks)
    size, values = by_the_package(path)
    header = read(path)
    assert size <= sum(header.tensors.values()) < size + 32 * len(blocks)
    assert (
        header.config["qwen2.attention.head_count_kv"] == [2] * len(blocks) == values["qwen2.attention.head_count_kv"]
    )
    assert (header.config["vocab"], header.config["qwen2.flag"]) == (1025, True)
    assert (header.config["qwen2.double"], header.config["qwen2.negative"]) == (0.5, -(2**40))


def test_sums_tensors_of_all_parts(tmp_path: Path) -> None:
    parts = [written(tmp_path / f"m-0000{number}-of-00003.gguf", [2 * number] * 2) for number in (1, 2, 3)]
    whole = read(parts[0])
    assert sum(whole.tensors.values()) == sum(by_the_package(part)[0] for part in parts)
    parts[2].unlink()
    assert read(parts[0]).problem == "m-00003-of-00003.gguf is missing"


def test_reads_files_named_in_index(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", {**SMALL, "tokenizer": "x" * 99}, {"a": (10, 10), "b": (5,)}, files=2)
    safetensors(path / "consolidated.safetensors", {"a": (10, 10), "b": (5,)})  # the same again, as Mistral has it
    (path / "tokenizer_config.json").write_text('{"model_max_length": 2048, "chat_template": "long"}')
    header = read(path)
    assert (header.kind, header.tensors) == ("safetensors", {"BF16": 210})
    facts = {"rope": "default", "text_config": False, "model_max_length": 2048, "chat_template": True}
    assert header.config == {**SMALL, **facts}
    (path / "model-00002-of-00002.safetensors").unlink()
    assert read(path).problem == "1 of 2 files are missing, model-00002-of-00002.safetensors first"


def test_finds_chat_template(tmp_path: Path) -> None:
    """In tokenizer_config.json, in its own file, or among the values of a GGUF file."""
    path = folder(tmp_path / "m", SMALL, {"a": (10, 10)})
    assert read(path).config["chat_template"] is False
    (path / "tokenizer_config.json").write_text('{"chat_template": null}')
    assert read(path).config["chat_template"] is False
    (path / "chat_template.jinja").write_text("{{ messages }}")
    assert read(path).config["chat_template"] is True
    assert read(written(tmp_path / "m.gguf", [1])).config["chat_template"] is False


def test_counts_parameters_of_qwen(tmp_path: Path) -> None:
    # by Qwen: 7.61, 14.7 and 32.5 billion
    for size, parameters in {"7B": 7_615_616_512, "14B": 14_770_033_664, "32B": 32_763_876_352}.items():
        assert read(qwen(tmp_path, size)).tensors == {"BF16": 2 * parameters}


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: path.mkdir(), "config.json: No such file or directory"),
        (lambda path: folder(path, SMALL, {}, 0), "there are no *.safetensors in the folder"),
        (lambda path: path.write_text("x"), "they are neither a GGUF file nor a folder of *.safetensors"),
        (
            lambda path: os.truncate(folder(path, SMALL, {"a": (9,)}) / "model-00001-of-00001.safetensors", 60),
            "cut off",
        ),
        (lambda path: None, "they are neither a GGUF file nor a folder of *.safetensors"),
    ],
)
def test_reports_unreadable_weights(tmp_path: Path, make: Any, problem: str) -> None:
    make(tmp_path / "weights")
    assert problem.replace("cut off", "") in read(tmp_path / "weights").problem != ""


@given(data=st.data())
def test_damaged_file_never_raises(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    base = tmp_path_factory.mktemp("damaged")
    whole = written(base / "m.gguf", [1, 2]).read_bytes()
    header_end = len(whole) - 3 * 144
    cut = data.draw(st.integers(0, header_end))
    (base / "cut.gguf").write_bytes(whole[:cut])
    sentences = ("cut.gguf is cut off", "cut.gguf is cut off in its header", "cut.gguf is empty")
    assert read(base / "cut.gguf").problem in sentences
    at = data.draw(st.integers(0, header_end))
    garbage = data.draw(st.binary(min_size=1, max_size=12))
    (base / "garbage.gguf").write_bytes(whole[:at] + garbage + whole[at + len(garbage) :])
    assert read(base / "garbage.gguf") is not None
    path = folder(base / "hf", SMALL, {"a": (3, 3)})
    (path / "model-00001-of-00001.safetensors").write_bytes(data.draw(st.binary(max_size=40)))
    assert read(path).problem
    (path / "config.json").write_bytes(data.draw(st.sampled_from([b"", b"[]", b"[" * 100_000, b"\xff", b'{"a":'])))
    assert read(path).problem


def test_runs_on_oldest_python_of_hosts() -> None:
    with pytest.raises(SyntaxError):  # the check itself can fail
        ast.parse("(a := 1)", feature_version=(3, 6))
    ast.parse((FILES / "weights_header.py").read_text(), feature_version=(3, 6))


# --- the look ------------------------------------------------------------------------------------------------------


def take_snapshot(paths: list[str], known: dict[str, Header] | None = None) -> tuple[HostFacts, list[str]]:
    """(the facts, the JSON lines of headers) of a snapshot of this machine by the real script."""
    engines = {number: "llama.cpp" if path.endswith(".gguf") else "vllm" for number, path in enumerate(paths)}
    wanted = models(**{f"m{n}": {"weights": paths[n], "engine": e, "gpus": [n]} for n, e in engines.items()})
    text = without_parts(script(questions(wanted), known))
    output = subprocess.run(["sh", "-s"], input=text, capture_output=True, text=True, check=True).stdout
    lines = plain(output)
    found = [line for line in lines if line.startswith("{")]  # `docker info` of this machine may be among them
    return parse(output.split("\n")), [line for line in found if {"path", "kind"} <= set(json.loads(line))]


def test_snapshot_reads_headers_once(tmp_path: Path) -> None:
    path = tmp_path / "with space.gguf"
    gguf_models.say(path, "Alpha speaks.")
    first, lines = take_snapshot([str(path), "/not/there.gguf"])
    assert len(lines) == 1
    assert list(first.headers) == list(first.stamps) == [str(path)]
    assert first.headers[str(path)].config["llama.context_length"] == 4096
    headers = remembered.merged_headers(first, {}, "2026-11-19")
    again, lines = take_snapshot([str(path)], headers)
    assert (lines, again.headers) == ([], {})
    assert remembered.merged_headers(again, headers, "2026-11-20")[str(path)].seen == "2026-11-20"
    os.utime(path, (1, 1))
    changed, lines = take_snapshot([str(path)], headers)
    assert len(lines) == 1
    assert changed.stamps[str(path)] != first.stamps[str(path)]


@given(line=st.one_of(st.text(), st.dictionaries(st.text(), st.none() | st.integers() | st.text()).map(json.dumps)))
def test_ignores_invalid_answer(line: str) -> None:
    lines = ["@@ stamps", "1-2|/a", "@@ headers", line.replace("@", ""), '{"path": "/a", "kind": "gguf"}', "@@ end"]
    seen = parse(framed(lines))
    assert seen.headers == {"/a": Header("1-2", "gguf")}


def test_changed_file_changes_stamp_of_folder(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    folder(blobs, QWEN["7B"], {"a": (3, 3)})
    snapshot.mkdir()
    for file in blobs.iterdir():  # as in the cache of huggingface_hub
        (snapshot / file.name).symlink_to(file)
    first, _ = take_snapshot([str(snapshot)])
    assert first.headers[str(snapshot)].tensors == {"BF16": 18}
    os.utime(blobs / "config.json", (1, 1))
    assert take_snapshot([str(snapshot)])[0].stamps != first.stamps


def test_remembers_by_host_and_forgets_missing_weights(tmp_path: Path) -> None:
    def seen(**stamps: str) -> HostFacts:
        headers = {
            f"/{name}": Header(stamp, "gguf", {"GGUF": 1}, {"a": [1]}, "", "2026-11-19")
            for name, stamp in stamps.items()
        }
        return HostFacts(
            weights=dict.fromkeys(headers, 1), stamps={path: h.stamp for path, h in headers.items()}, headers=headers
        )

    remembered.remember("gpu1", {}, seen(a="1", b="2"))
    known = remembered.recall("gpu1")
    assert known == seen(a="1", b="2").headers
    assert remembered.recall("gpu2") == {}
    assert remembered.recall("gpu1", "another-lab") == {}
    remembered.remember("gpu1", {}, seen(z="1"), "another-lab")
    assert list(remembered.recall("gpu1", "another-lab")) == ["/z"]
    assert remembered.recall("gpu1") == known
    # /b is not requested, so it stays; /a is missing
    gone = HostFacts(weights={"/a": None})
    remembered.remember("gpu1", known, gone)
    assert list(remembered.recall("gpu1")) == ["/b"]
    remembered.place("gpu1").write_text(json.dumps({"host": "gpu1", "reader": "another", "weights": {}}))
    assert remembered.recall("gpu1") == {}
    remembered.place("gpu1").write_text("no JSON")
    assert remembered.recall("gpu1") == {}


def test_unwritable_cache_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    facts = HostFacts(headers={"/a": Header("1")})
    remembered.remember("gpu1", {}, facts)
    assert remembered.recall("gpu1") == {}


def test_cache_path_is_safe_for_any_host_name() -> None:
    assert remembered.place("../../etc/x").parent == remembered.place("gpu1").parent


def test_reader_runs_without_other_files(tmp_path: Path) -> None:
    """The text of the module after the one that it imports, and nothing else."""
    imported, own = (ascii((FILES / f"{name}.py").read_text()) for name in ("safe_paths", "weights_header"))
    assert remembered.reader() == (
        "import sys, types\n_part = sys.modules['safe_paths'] = types.ModuleType('safe_paths')\n"
        f"exec(compile({imported}, 'safe_paths.py', 'exec'), _part.__dict__)\n"
        f"exec(compile({own}, 'weights_header.py', 'exec'))\n"
    )
    path = tmp_path / "a.gguf"
    gguf_models.say(path, "Alpha speaks.")
    program = [sys.executable, "-I", "-S", "-c", remembered.reader()]
    done = subprocess.run(program, input=f"{path}\n", capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout) == {**reader().answer(bytes(path)), "path": str(path)}


# --- damage, as a run checks it before it stops a model ---------------------------------------------------------------


def damage(path: Path) -> str:
    return str(reader().damage(bytes(path))["damaged"])


def test_whole_weights_are_not_damaged(tmp_path: Path) -> None:
    gguf_models.say(tmp_path / "a.gguf", "Alpha speaks.")
    parts = [written(tmp_path / f"m-0000{number}-of-00002.gguf", [number]) for number in (1, 2)]
    for path in (tmp_path / "a.gguf", parts[0], folder(tmp_path / "m", SMALL, {"a": (10, 10)}), qwen(tmp_path, "7B")):
        assert damage(path) == ""


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_K"])
def test_last_byte_of_the_last_tensor_counts(tmp_path: Path, kind: str) -> None:
    """By ggml's own package: what its last tensor needs is neither more nor less than what we compute."""
    import gguf
    import numpy

    path, form = tmp_path / "m.gguf", gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, "llama")
    block, size = gguf.GGML_QUANT_SIZES[form]
    tensor = numpy.zeros((3, 256 // block * size), dtype=numpy.uint8)
    writer.add_tensor("a", tensor, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    begin = int(gguf.GGUFReader(path).tensors[-1].data_offset)
    os.truncate(path, begin + tensor.nbytes)  # without the padding, which a file need not have
    assert damage(path) == ""
    os.truncate(path, begin + tensor.nbytes - 1)
    assert damage(path) == "m.gguf is cut off"


@given(data=st.data())
def test_every_cut_is_damage(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    base = tmp_path_factory.mktemp("cut")
    whole = written(base / "m.gguf", [1, 2]).read_bytes()
    (base / "cut.gguf").write_bytes(whole[: data.draw(st.integers(0, len(whole) - 40))])
    assert damage(base / "cut.gguf")
    path = folder(base / "hf", SMALL, {"a": (3, 3)}) / "model-00001-of-00001.safetensors"
    path.write_bytes(path.read_bytes()[: data.draw(st.integers(1, path.stat().st_size - 1))])
    assert damage(base / "hf")


@pytest.mark.parametrize(
    "content",
    [b"", b"GG", b"<!doctype html>", b"version https://git-lfs.github.com/spec/v1\noid sha256:1", b"PK\3\4" * 99],
)
def test_junk_with_the_name_of_weights_is_damage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    path = folder(tmp_path / "m", SMALL, {"a": (3, 3)})
    (path / "model-00001-of-00001.safetensors").write_bytes(content)
    assert damage(tmp_path / "m.gguf")
    assert content == b"" or damage(path)


def test_missing_part_is_damage(tmp_path: Path) -> None:
    first, second = (written(tmp_path / f"m-0000{number}-of-00002.gguf", [number]) for number in (1, 2))
    second.unlink()
    assert damage(first) == "m-00002-of-00002.gguf is missing"


def test_what_gpurack_does_not_know_is_no_damage(tmp_path: Path) -> None:
    """A later version of GGUF, a folder in another format, weights that are elsewhere."""
    whole = written(tmp_path / "m.gguf", [1]).read_bytes()
    (tmp_path / "m.gguf").write_bytes(whole[:4] + b"\4" + whole[5:])
    (tmp_path / "mistral").mkdir()
    (tmp_path / "mistral" / "params.json").write_text("{}")
    (tmp_path / "pickled.bin").write_bytes(b"x")
    for name in ("m.gguf", "mistral", "pickled.bin", "missing.gguf", "missing"):
        assert damage(tmp_path / name) == ""


def test_program_answers_within_its_limits(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"x")
    program = [sys.executable, str(FILES / "weights_header.py"), "check"]
    done = subprocess.run(program, input=f"{tmp_path}/m.gguf\n", capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"damaged": "m.gguf is not a GGUF file", "path": f"{tmp_path}/m.gguf"}
