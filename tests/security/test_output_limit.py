"""Endless output of a host is one error about that host, and does not fill the admin's memory."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from paramiko import SSHException
from paramiko.file import BufferedFile
from pyinfra.api import Config, Host, Inventory, State
from pyinfra.connectors import ssh

from gpurack import pyinfra_patches, remote
from gpurack.commands import image_save, import_from_host, on_host
from gpurack.facts import snapshot
from gpurack.facts.model import HostFacts
from gpurack.locking.gather import manifest_lines
from gpurack.operations.commands import Streamed, script
from gpurack.operations.run_state import host_run
from gpurack.plan.questions import questions
from gpurack.pyinfra_patches import read_any_bytes
from gpurack.remote import TooMuchOutput
from gpurack.shell import sh
from gpurack.verify.drift import Unread
from gpurack.verify.reach import run_as_root
from tests.given import host_state, spec

SENTENCE = "a command printed more than 0 MiB and was stopped"
HERE = "@local"


class Endless(BufferedFile):
    """A command's output as paramiko gives it; it ends when its channel is closed."""

    def __init__(self, block: bytes) -> None:
        super().__init__()
        self.block, self.channel, self.given = block, self, 0
        self._set_mode("r")

    def settimeout(self, seconds: float) -> None:
        """It always has something."""

    def _read(self, size: int) -> bytes:
        self.given += len(self.block)
        return b"" if self.closed else self.block


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyinfra_patches, "OUTPUT_LIMIT", 100_000)
    read_any_bytes()


@pytest.fixture
def host() -> Iterator[Host]:
    """This machine, as pyinfra's @local."""
    state = State(Inventory(([HERE], {})), Config())
    one = state.inventory.get_host(HERE)
    one.connect()
    yield one
    one.disconnect()


def read(stdout: Any, stderr: Any) -> Any:
    return ssh.read_output_buffers(stdout, stderr, timeout=20, print_output=False, print_prefix="")


@pytest.mark.parametrize("block", [b"x" * 8000, b"\n" * 100, b"\xff\x80\n"], ids=["one line", "empty lines", "no text"])
def test_closes_endless_output(block: bytes, small: None) -> None:
    for outputs in ((Endless(block), Endless(b"")), (Endless(b""), Endless(block))):
        with pytest.raises(TooMuchOutput, match="printed more than"):
            read(*outputs)
        assert sum(each.given for each in outputs) < 250_000


def test_counts_memory_of_short_lines(small: None) -> None:
    lines = Endless(b"\n" * 100)
    with pytest.raises(TooMuchOutput):
        read(lines, Endless(b""))
    assert lines.given < 1000


def test_passes_line_without_end_on_in_parts(small: None) -> None:
    """As `gpurack logs --follow` prints, whose output may be endless."""
    seen: list[int] = []

    def part(line: str) -> None:
        seen.append(len(line))
        if len(seen) == 5:
            raise BrokenPipeError

    with pyinfra_patches.each_line(part, endless=True):
        read(Endless(b"x" * 8000), Endless(b""))
    assert len(seen) == 5
    assert max(seen) < 1_100_000


def test_output_is_closed_only_where_its_reader_ended() -> None:
    """A host sends the exit code after the output; a closed channel would lose it."""

    class Output(io.BytesIO):
        channel = SimpleNamespace(close=lambda: closed.append(1))

    def ended(line: str) -> None:
        raise BrokenPipeError

    closed: list[int] = []
    for seen, closes in ((len, []), (ended, [1])):
        with pyinfra_patches.each_line(seen, endless=True):
            read(Output(b"one\ntwo\n"), io.BytesIO())
        assert closed == closes


def test_closes_log_without_end(small: None) -> None:
    """As `gpurack logs` prints, which has a limit of time."""
    lines = Endless(b"x\n" * 100)
    with pytest.raises(TooMuchOutput, match="printed more than"), pyinfra_patches.each_line(len, endless=False):
        read(lines, Endless(b""))
    assert lines.given < 250_000


def test_change_with_endless_output_fails(host: Host, small: None) -> None:
    ok, _ = Streamed(script(sh("yes"))).execute(host.state, host, {})
    assert not ok
    assert SENTENCE in str(host_run(host).failures)


def test_snapshot_manifest_and_verification_report_it_for_that_host(
    host: Host, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "AS_ROOT", sh("cat >/dev/null; yes"))
    monkeypatch.setattr(snapshot.Snapshot, "command", lambda self: snapshot.Command(sh("cat >/dev/null; yes")))
    assert snapshot.take_snapshot(host, questions(spec({}))) == HostFacts.not_inspected(f"{SENTENCE}.")
    monkeypatch.setattr("gpurack.locking.gather.read_text", lambda name: "yes")
    with pytest.raises(OSError, match=SENTENCE):
        manifest_lines(host, host_state())
    with pytest.raises(Unread, match=SENTENCE):
        run_as_root(host, sh("yes"), "", 60)


def test_host_whose_shell_hangs_is_not_waited_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its login does, or sudo, on a file server that does not answer."""
    said: list[str] = []
    monkeypatch.setattr(host, "log", said.append)
    monkeypatch.setattr(remote, "SIGN_OF_LIFE", 0.3)
    hangs = snapshot.Command(sh("cat >/dev/null; exec sleep 60"))
    monkeypatch.setattr(snapshot.Snapshot, "command", lambda self: hangs)
    monkeypatch.setattr(snapshot, "ANSWER", 1)
    facts = snapshot.take_snapshot(host, questions(spec({})))
    assert facts.trouble
    assert facts.trouble.what.startswith("Could not inspect the host: no answer within 1 s, although ssh works.")
    assert said[0].startswith("waiting for an answer of the host, ")
    monkeypatch.setattr(on_host, "AM_I_ROOT", sh("exec sleep 60"))
    monkeypatch.setattr(on_host, "QUICK", 1)
    with pytest.raises(on_host.NotDone, match=r"^no answer within 1 s\.$"):
        on_host.privilege(host)


@pytest.mark.parametrize("error", [EOFError(), SSHException("SSH session not active"), OSError("reset")])
def test_host_whose_connection_ends_is_one_error(host: Host, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """paramiko raises EOFError where it opens a channel as the connection ends."""

    def ends(*words: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(host, "run_shell_command", ends)
    assert snapshot.take_snapshot(host, questions(spec({}))) == HostFacts.not_inspected(snapshot.FAILED)


def test_says_that_an_answer_is_waited_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(host, "log", said.append)
    monkeypatch.setattr(remote, "SIGN_OF_LIFE", 0.3)
    for told, printed in ((False, True), (True, False)):
        said.clear()
        assert remote.run(host, remote.Command(sh("sleep 1")), told=told)[0]
        assert bool(said) is printed
    before = len(said)
    time.sleep(0.5)
    assert len(said) == before


def test_import_does_not_wait_for_silent_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_from_host, "COMMAND", sh("sleep 60"))
    monkeypatch.setattr(import_from_host, "LIMIT", 1)
    with pytest.raises(
        import_from_host.Unreachable, match=r"docker inspect did not finish in 1 s\. Try `ssh @local sudo docker"
    ):
        import_from_host.inspect(HERE, None)


@pytest.mark.parametrize("says", [b"", b"sha256:" + b"0" * 64 + b" " + b"9" * 5000, b"sha256:" + b"0" * 64 + b" 1000"])
def test_saving_an_image_of_a_host_that_sends_without_end_stops(
    says: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It also says how large the image is."""
    monkeypatch.setattr(image_save, "LARGEST", 100_000)
    answers = [says or Endless(b"x\n" * 100), Endless(b"x" * 100)]

    def exec_command(command: str) -> Any:
        answer = answers.pop(0)
        return None, io.BytesIO(answer) if isinstance(answer, bytes) else answer, Endless(b"e" * 1000)

    file = tmp_path / "image.tar"
    gpu1: Any = SimpleNamespace(name="gpu1")
    with pytest.raises(image_save.NotSaved, match=r"has no container or image|sends more than the image has"):
        image_save._save(SimpleNamespace(exec_command=exec_command), gpu1, "a", file, print)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sent", [[], [b"sha256:" + b"0" * 64 + b" 1000"]], ids=["question", "image"])
def test_saving_an_image_does_not_wait_for_silent_docker(
    sent: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it waits for is said meanwhile."""
    monkeypatch.setattr(image_save, "SILENCE", 0.5)
    monkeypatch.setattr(image_save, "PROGRESS_INTERVAL", 0.1)
    limits: list[float] = []

    def exec_command(command: str) -> Any:
        def read(most: int) -> bytes:
            if sent:
                return sent.pop()
            time.sleep(0.1)
            raise TimeoutError

        quiet = SimpleNamespace(read=lambda most: b"")
        return None, SimpleNamespace(read=read, channel=SimpleNamespace(settimeout=limits.append)), quiet

    said: list[str] = []
    why = r"^gpu1 sent nothing for 0\.5 s\.$" if sent else r"^gpu1: docker gave no answer within 60 s\.$"
    gpu1: Any = SimpleNamespace(name="gpu1")
    with pytest.raises(image_save.NotSaved, match=why):
        image_save._save(SimpleNamespace(exec_command=exec_command), gpu1, "a", tmp_path / "image.tar", said.append)
    assert limits == ([60, 0.1] if len(limits) > 1 else [60])
    assert all(line == "a: 0.00 GB of about 0.00 GB" for line in said)
    assert not list(tmp_path.iterdir())
