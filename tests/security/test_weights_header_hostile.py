"""Hostile headers of weights cost one message, a few seconds, and limited memory."""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack.facts.parts import Header
from gpurack.facts.remembered import reader
from gpurack.plan.models import memory
from gpurack.spec.gpus import GpuSlot
from tests.given import models
from tests.security.users import USER, give, needs_root, place  # noqa: F401
from tests.testbed import gguf_models
from tests.unit.host_programs import load

pytestmark = pytest.mark.sampled

MOST_SECONDS, MOST_MEMORY = 20, 1 << 30  # 10 s for one model, also on a busy machine
HUGE = 2**63


def asked(*paths: Path) -> list[dict[str, Any]]:
    """The answer of the program that hosts run, with a lower limit of strings, which would take 5 s."""
    begun = time.monotonic()
    stdin = "".join(f"{path}\n" for path in paths)
    program = reader().replace("MOST = 2000000", "MOST = 50000")
    assert program != reader()
    done = subprocess.run(
        [sys.executable, "-c", program], input=stdin, capture_output=True, text=True, check=True, timeout=60
    )
    assert time.monotonic() - begun < MOST_SECONDS
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10 < MOST_MEMORY
    return [json.loads(line) for line in done.stdout.splitlines()]


def gguf(path: Path, body: bytes, tensors: int = 0, pairs: int = 1, size: int = 0) -> Path:
    """A file that claims to have this number of tensors and pairs; with holes up to a size."""
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, tensors, pairs) + body)
    if size:
        os.truncate(path, size)
    return path


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def array(kind: int, count: int) -> bytes:
    return text(b"a") + struct.pack("<IIQ", 9, kind, count)


KEY = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
GGUFS: dict[str, dict[str, Any]] = {
    "more pairs than can be": {"body": KEY, "pairs": HUGE},
    "more tensors than can be": {"body": KEY, "tensors": HUGE},
    "endless pairs of nothing": {"body": b"", "pairs": HUGE, "size": 1 << 40},
    "endless tensors of nothing": {"body": KEY, "tensors": HUGE, "size": 1 << 40},
    "endless empty texts": {"body": array(8, HUGE), "size": 1 << 40},
    "endless empty arrays": {"body": array(9, HUGE), "size": 1 << 40},
    "endless numbers": {"body": array(0, HUGE), "size": 1 << 40},
    "a text of a terabyte": {
        "body": text(b"a") + struct.pack("<IQ", 8, (1 << 40) - 100), "size": 1 << 40, "tensors": 1,
    },
    "a text that ends behind the file": {"body": text(b"a") + struct.pack("<IQ", 8, HUGE + 5)},
    "a key of a terabyte": {"body": struct.pack("<Q", (1 << 40) - 100), "size": 1 << 40},
    "arrays in arrays": {"body": text(b"a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50_000},
    "a type that there is none of": {"body": text(b"a") + struct.pack("<I", 99)},
    "aligned to nothing": {
        "body": text(b"general.alignment") + struct.pack("<II", 4, 0) + text(b"t") + struct.pack("<IIQ", 0, 0, 0),
        "tensors": 1,
    },
    "aligned to a text": {
        "body": text(b"general.alignment") + struct.pack("<I", 8) + text(b"x") + text(b"t")
        + struct.pack("<IIQ", 0, 0, 0),
        "tensors": 1,
    },
    "more dimensions than can be": {"body": KEY + text(b"t") + struct.pack("<I", 2**32 - 1), "tensors": 1},
    "an endless name": {
        "body": b"".join(
            text(b"llama.%d" % number) + struct.pack("<I", 8) + text(b"x" * 10_000) for number in range(100)
        ) + KEY,
        "pairs": 101,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def of_ggufs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """Case → answers to it and to the good file after it, all of one program."""
    folder = tmp_path_factory.mktemp("ggufs")
    good = folder / "good.gguf"
    gguf_models.say(good, "Alpha speaks.")
    paths = [gguf(folder / f"{number}.gguf", **case) for number, case in enumerate(GGUFS.values())]
    said = asked(*(path for each in paths for path in (each, good)))
    return dict(zip(GGUFS, zip(said[::2], said[1::2], strict=True), strict=True))


@pytest.mark.parametrize("how", GGUFS)
def test_hostile_gguf_is_one_message(of_ggufs: dict[str, tuple[Any, Any]], how: str) -> None:
    hostile, fine = of_ggufs[how]
    assert hostile["problem"]
    assert len(hostile["problem"]) <= 300
    assert fine["kind"] == "gguf"  # the next weights are read anyway


def safetensors(folder: Path, content: bytes, length: int | None = None, size: int = 0) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(content) if length is None else length) + content)
    if size:
        os.truncate(path, size)
    return folder


def tensor(begin: Any, end: Any, dtype: Any = "F16") -> bytes:
    return json.dumps({"t": {"dtype": dtype, "shape": [1], "data_offsets": [begin, end]}}).encode()


HEADERS: dict[str, dict[str, Any]] = {
    "longer than can be": {"content": b"{}", "length": 2**60},
    "longer than the file": {"content": b"{}", "length": 1000},
    "of holes": {"content": b"{}", "length": (64 << 20) - 8, "size": 1 << 40},
    "deep": {"content": b"[" * 1_000_000},
    "deep maps": {"content": b'{"a":' * 1_000_000},
    "a number of a million digits": {"content": tensor(0, 1).replace(b"1]}", b"1" * 1_000_000 + b"]}")},
    "a fraction": {"content": tensor(0, 1.5)},
    "without end": {"content": tensor(0, 1).replace(b", 1]", b", Infinity]")},
    "backwards": {"content": tensor(9, 1)},
    "negative": {"content": tensor(-9, 1)},
    "a text": {"content": tensor("0", "1")},
    "a list": {"content": b"[1]"},
    "no text": {"content": b"\xff\xfe"},
    "a million types": {
        "content": json.dumps(
            {f"t{n}": {"dtype": f"F{n}", "data_offsets": [0, 0]} for n in range(100_000)}
        ).encode(),
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def of_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Case → answer, all of one program."""
    folder = tmp_path_factory.mktemp("folders")
    paths = [safetensors(folder / str(number), **case) for number, case in enumerate(HEADERS.values())]
    return dict(zip(HEADERS, asked(*paths), strict=True))


@pytest.mark.parametrize("how", HEADERS)
def test_hostile_folder_is_one_message(of_folders: dict[str, Any], how: str) -> None:
    assert of_folders[how]["problem"]


BESIDE = ("config.json", "model.safetensors.index.json", "tokenizer_config.json")
AS = ("huge", "deep", "fifo", "folder", "list")


def folder_with(folder: Path, name: str, how: str) -> Path:
    """Weights with such a file beside them."""
    safetensors(folder, tensor(0, 0))
    path = folder / name
    path.unlink(missing_ok=True)
    if how == "huge":
        path.touch()
        os.truncate(path, 1 << 40)
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    else:
        path.write_text({"deep": "[" * 1_000_000, "list": "[1]"}[how])
    return folder


@pytest.fixture(scope="module")
def of_files_beside(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    """Name and case → answer, all of one program."""
    cases = [(name, how) for name in BESIDE for how in AS]
    folder = tmp_path_factory.mktemp("beside")
    paths = [folder_with(folder / str(number), *case) for number, case in enumerate(cases)]
    return dict(zip(cases, asked(*paths), strict=True))


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("how", AS)
def test_hostile_files_beside_weights_are_harmless(
    of_files_beside: dict[tuple[str, str], Any], name: str, how: str
) -> None:
    assert of_files_beside[name, how]["problem"]


def test_names_in_index_stay_in_folder(tmp_path: Path) -> None:
    folder = safetensors(tmp_path / "m", tensor(0, 0))
    for name in ("../../etc/shadow", "/etc/shadow", "\ud800", 7):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"t": name}}))
        assert asked(folder)[0]["problem"]


@needs_root
@pytest.mark.parametrize("how", ["fifo", "device", "link"])
def test_special_files_are_refused(tmp_path: Path, how: str) -> None:
    path = tmp_path / "m.gguf"
    if how == "fifo":
        os.mkfifo(path)
    elif how == "device":
        os.mknod(path, 0o020600, os.makedev(1, 5))
    else:
        gguf_models.say(tmp_path / "closed.gguf", "Root's own.")
        path.symlink_to("closed.gguf")
        give(path)
    (said,) = asked(path)
    assert said["problem"].endswith(
        "is not a regular file" if how != "link" else f"is a link owned by {USER}, so root does not follow it"
    )


def test_file_truncated_while_read_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it was mapped, truncation would end the process, and lose the facts of all other weights."""
    path = tmp_path / "m.gguf"
    gguf_models.say(path, "Alpha speaks.")
    module = load("weights_header")
    take = module.Content.take

    def cut(self: Any, at: int, count: int) -> Any:
        os.truncate(path, 30)
        self.block = b""
        return take(self, at, count)

    monkeypatch.setattr(module.Content, "take", cut)
    assert "cut off in its header" in module.answer(str(path).encode())["problem"]


def test_slow_header_hits_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("weights_header")
    monkeypatch.setattr(module, "SECONDS", 0.2)
    monkeypatch.setattr(module, "read", lambda path: time.sleep(30))
    assert module.bounded(b"/w/a.gguf") == {"problem": "their header took more than 0 s"}


READER = load("weights_header")


@given(body=st.binary(max_size=300), tensors=st.integers(0, 3) | st.just(HUGE), pairs=st.integers(0, 3) | st.just(HUGE))
def test_random_bytes_are_one_message(
    tmp_path_factory: pytest.TempPathFactory, body: bytes, tensors: int, pairs: int
) -> None:
    path = gguf(tmp_path_factory.mktemp("bytes") / "m.gguf", body, tensors, pairs)
    said = READER.answer(str(path).encode())
    json.dumps(said)
    assert said.keys() in ({"problem"}, {"kind", "tensors", "config"})


FOLDER = {
    "model_type": "llama", "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128, "hidden_size": 4096, "vocab_size": 32000, "max_position_embeddings": 4096, "sliding_window": 8192,
    "model_max_length": 4096, "use_sliding_window": True, "layer_types": ["sliding_attention"], "quantization": "awq",
}  # fmt: skip
GGUF = {
    "general.architecture": "llama", "vocab": 32000, "llama.block_count": 32, "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8, "llama.attention.key_length": 128, "llama.attention.value_length": 128,
    "llama.embedding_length": 4096, "llama.context_length": 4096, "llama.attention.sliding_window": 8192,
}  # fmt: skip
ANYTHING = st.sampled_from(
    [0, -1, 1, True, None, 1.5, 1e300, 10**18, 10**38, 10**4000, "", "x", "7", [], [10**38] * 3, ["x", 1], {}, {"a": 1}]
)
SLOTS = tuple(GpuSlot(index, f"GPU-{index}", "A30", memory=24.0) for index in range(3))


@pytest.mark.parametrize("engine", ["vllm", "llama.cpp"])
@pytest.mark.parametrize(("kind", "plain"), [("safetensors", FOLDER), ("gguf", GGUF)])
@given(
    wrong=st.dictionaries(st.sampled_from([*FOLDER, *GGUF]), ANYTHING, min_size=1, max_size=3),
    size=st.sampled_from([0, 10**9, 2**63 - 1]),
)
def test_any_facts_give_estimate_or_none(
    engine: str, kind: str, plain: dict[str, Any], wrong: dict[str, Any], size: int
) -> None:
    """An exception would end the plan of the whole host."""
    path = "/w/a.gguf" if engine == "llama.cpp" else "/w/a"
    model = models(alpha={"engine": engine, "weights": path, "gpus": [0]}).models["alpha"]
    known = {key: value for key, value in wrong.items() if key in plain}
    header = Header("1-1", kind, {"BF16": size}, {**plain, **known})
    for cards in (1, 2, 3):
        memory.refusal(model, header, SLOTS[:cards])
        memory.tight(model, header, SLOTS[:cards])
