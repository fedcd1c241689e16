"""A user's log, or what their Docker prints, may be one line of a megabyte. A pattern that needs its square of
steps would stop the whole runner, or the admin's `gpurack status`: `re` and `int` hold Python's lock.
"""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from gpurack import cuda_faults
from gpurack.engines import ENGINES
from gpurack.engines.hints import COMMON, CUDA
from gpurack.facts import docker
from tests.unit.host_programs import load

MEGABYTE = 10**6
BEGINS = ("CUDA", "invalid value '", "inference compute ", 'msg="NVIDIA driver too old"', "offloaded 1", "1.", " ")
"""What patterns begin with, of which each one that a line has is a place to start from."""


class Recorder:
    """A pattern that notes the longest line that it was tried on."""

    def __init__(self, pattern: Any) -> None:
        self.pattern, self.longest = pattern, 0

    def __getattr__(self, name: str) -> Any:
        def call(text: str, *more: Any) -> Any:
            self.longest = max(self.longest, *map(len, text.split("\n")))
            return getattr(self.pattern, name)(text[: 10**4], *more)

        return call


@pytest.mark.parametrize("begin", BEGINS)
def test_hints_are_tried_on_the_begin_of_a_line(begin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error_hints = load("error_hints")
    hints = [hint.payload for engine in ENGINES.values() for hint in (*COMMON, *CUDA, *engine.hints)]
    tried: list[int] = []
    real = re.search
    monkeypatch.setattr(re, "search", lambda one, text, *more: tried.append(len(text)) or real(one, text[:2000], *more))
    error_hints.error_hint(1, begin * (MEGABYTE // len(begin)), hints)
    assert len(tried) >= 2 * len(hints) > 40
    assert max(tried) <= 1000


@pytest.mark.parametrize("begin", BEGINS)
def test_a_log_is_read_by_the_begin_of_its_lines(begin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = {name: Recorder(getattr(cuda_faults, name)) for name in ("ON_GPU", "OFFLOADED", "ON_CPU", "BY_GGML")}
    for name, pattern in patterns.items():
        monkeypatch.setattr(cuda_faults, name, pattern)
    without = [(Recorder(pattern), text) for pattern, text in cuda_faults.WITHOUT_GPU]
    monkeypatch.setattr(cuda_faults, "WITHOUT_GPU", without)
    cuda_faults.continues_without(begin * (MEGABYTE // len(begin)), layers=True)
    longest = [pattern.longest for pattern in (*patterns.values(), *(pattern for pattern, _ in without))]
    assert max(longest) <= 300


def test_a_users_log_in_a_snapshot_is_short() -> None:
    """The script's own limits hold in the user's process only, who may print what they like in its place."""
    said = "\n".join(["inference compute " * 5000] * 8 + ["no usable GPU found"] * 8000)
    log = docker.cuda_log([base64.b64encode(said.encode()).decode()])
    assert len(log) <= 20 * 301
    assert "no usable GPU found" in log


def test_empty_lists_of_a_probe_are_read_once() -> None:
    """Each of them was compared with all that follows: minutes for a megabyte."""
    output = "Available devices:\n" * (MEGABYTE // 19)
    assert cuda_faults.untested(output) == "its image lists no GPU, as one without CUDA does"
    assert cuda_faults.untested(output + "  SYCL0: a GPU") == "the probe in its image printed no result"


def test_progress_of_a_pull_is_short() -> None:
    layers = load("images").Layers()
    layers.LINE = Recorder(layers.LINE)
    layers.add("a Downloading " + "1." * (MEGABYTE // 2))
    layers.add("a Downloading 1.2.3MB/4.5.6MB")
    assert layers.LINE.longest <= 300
    for number in range(3000):
        layers.add(f"{number} Downloading [=> ] 1.5kB/2MB")
    assert len(layers.states) <= 1000
    assert layers.bytes["7"] == (1500, 2e6)


def test_size_of_a_disk_is_no_number_of_a_megabyte(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Python 3.11, int() needs minutes for its digits."""
    room = load("room")
    said = f"{'1' * MEGABYTE}\n1 1\n/x\n"
    monkeypatch.setattr(room, "run", lambda *argv, **options: (0, said))
    user = type("Dockerd", (), {"become": [], "user": "eve"})()
    assert room.seen(user, ["/x"], "", 1) is None


@pytest.mark.parametrize(
    "prompt",
    [
        "what is CUDA0?", 'slot 0: prompt: "load_tensors:  CUDA0 model buffer size"',
        'request: {"prompt":"using device CUDA0"}', 'request: {"prompt":"ggml_cuda_init: found 1 CUDA devices:"}',
        'request: {"a":"x: offloaded 33/33 layers to GPU"}',
        r'level=DEBUG msg="chat request" prompt="msg=\"inference compute\" library=CUDA"', 'msg="a\\" device=CUDA0"',
    ],
)  # fmt: skip
def test_prompt_of_a_client_does_not_hide_that_a_model_computes_on_the_cpu(prompt: str) -> None:
    """Servers log requests. Only their own lines say that they found a GPU."""
    failed = "ggml_cuda_init: failed to initialize CUDA: unknown error"
    assert cuda_faults.continues_without(f"{failed}\n{prompt}", layers=True) == "CUDA error 999: unknown error"
