"""Files in the snapshot: what gpurack brings is only named, the content of all others arrives byte by byte."""

import base64
import gzip
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.facts.parse import parse
from gpurack.facts.sections import UNPACKED_LIMIT
from gpurack.facts.snapshot import Snapshot, script
from gpurack.plan.host import SET_UP
from gpurack.plan.models.plan import host_files
from gpurack.plan.questions import questions
from gpurack.plan.run import Run
from gpurack.resources import SHIPPED, read_text
from tests.given import framed, host_state, models, spec, written_by
from tests.sampling import sample
from tests.unit.host_programs import SHELLS, Fakes, without_parts

pytestmark = pytest.mark.sampled

CONTENTS = {
    "empty": b"",
    "ends": b"one\n",
    "open": b"one\n\ntwo",
    "lines": b"\n\n",
    "binary": bytes(range(256)) + b"\n\0\n\xff",
    "heading": b"@@ end\n/etc/docker/daemon.json\0{}\n",
}


def taken(shell: list[str], text: str) -> tuple[HostFacts, str]:
    """The facts, and the output."""
    done = subprocess.run([*shell, "-s"], input=text, capture_output=True, text=True, check=True, timeout=60)
    return Snapshot().process(done.stdout.split("\n")), done.stdout


@pytest.mark.parametrize("shell", sample(SHELLS, "content_arrives_unchanged"), ids=lambda shell: shell[0])
def test_content_arrives_unchanged(shell: list[str], fakes: Fakes, tmp_path: Path) -> None:
    for name, content in CONTENTS.items():
        (tmp_path / f"{name}.list").write_bytes(content)
        (tmp_path / f"{name}.list").chmod(0o640)
    (tmp_path / "link.list").symlink_to(tmp_path / "open.list")
    text = without_parts(script(questions(models(alpha={}))), "system")
    seen, _ = taken(shell, text.replace("/etc/apt/sources.list.d/*.list", f"{tmp_path}/*.list"))
    found = {path: file for path, file in seen.files.items() if path.startswith(f"{tmp_path}/")}
    assert {Path(path).stem: file.content for path, file in found.items()} == {**CONTENTS, "link": CONTENTS["open"]}
    assert {file.mode for path, file in found.items() if "link" not in path} == {"640"}
    assert found[f"{tmp_path}/link.list"].mode == "777", "a link is no file of root's with this mode"
    assert (seen.trouble, seen.unread) == (None, ())


@pytest.mark.parametrize("shell", sample(SHELLS, "what_gpurack_brings_is_only_named"), ids=lambda shell: shell[0])
def test_what_gpurack_brings_is_only_named(
    shell: list[str], fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed one is sent, and one with the content of another."""
    for path in (*paths.RUNNER_PARTS, paths.RUNNER):
        (tmp_path / Path(path).name).write_text(read_text(SHIPPED[path]))
    (tmp_path / "hashes.py").write_text("changed")
    (tmp_path / "record.py").write_text(read_text(SHIPPED[f"{paths.LIB}/sqlite_copy.py"]))
    (tmp_path / "sqlite_copy.p").write_text(read_text(SHIPPED[f"{paths.LIB}/sqlite_copy.py"]))
    moved = {path.replace(paths.LIB, str(tmp_path)): name for path, name in SHIPPED.items()}
    text = without_parts(script(questions(models(alpha={}))), "system").replace(paths.LIB, str(tmp_path))
    monkeypatch.setattr("gpurack.facts.system.SHIPPED", moved)
    seen, output = taken(shell, text)
    expected = {path: read_text(name) for path, name in moved.items() if path.startswith(f"{tmp_path}/")}
    other = expected[f"{tmp_path}/sqlite_copy.py"]
    changed = {f"{tmp_path}/hashes.py": "changed", f"{tmp_path}/record.py": other, f"{tmp_path}/sqlite_copy.p": other}
    found = {path: file.text for path, file in seen.files.items() if path.startswith(f"{tmp_path}/")}
    assert found == expected | changed
    assert len(output) * 10 < sum(len(text) for text in expected.values())


def test_digests_are_of_what_a_run_writes() -> None:
    """Otherwise an unchanged host would be sent in full."""
    written = written_by(host_files(host_state()))
    for system in ("debian 13", "rocky 9"):
        wanted = spec(
            {"docker": {"source": "docker-ce"}, "nvidia": {}, "models": {"alpha": {"gpus": [0], "port": 8000}}}
        )
        facts = host_state(os=system, gpus=1, tools=["python3", "curl"])
        plans = (stage.plan(wanted, facts, Run()) for stage in SET_UP if stage.applies(wanted))
        written |= written_by(step for plan in plans for step in plan.steps)
    assert written.keys() >= SHIPPED.keys() - {paths.DOCKERD_ROOTLESS}
    assert {path: written[path].content for path in written.keys() & SHIPPED.keys()} == {
        path: read_text(name) for path, name in SHIPPED.items() if path in written
    }


@pytest.mark.parametrize("shell", sample(SHELLS, "host_without_gzip_says_the_same"), ids=lambda shell: shell[0])
def test_host_without_gzip_says_the_same(shell: list[str], fakes: Fakes, tmp_path: Path) -> None:
    """gzip is on nearly every host, but nothing depends on it."""
    (tmp_path / "own.list").write_bytes(CONTENTS["open"] * 1000)
    text = without_parts(script(questions(models(alpha={}))), "system")
    text = text.replace("/etc/apt/sources.list.d/*.list", f"{tmp_path}/*.list")
    packed, packed_output = taken(shell, text)
    plain, plain_output = taken(shell, text.replace("have gzip", "false"))
    assert packed.files == plain.files
    assert packed.files[f"{tmp_path}/own.list"].content == CONTENTS["open"] * 1000
    assert (packed.trouble, packed.os, packed.units) == (plain.trouble, plain.os, plain.units)
    assert len(packed_output) * 2 < len(plain_output)


def packed(text: bytes) -> list[str]:
    """Lines of base64 of gzip, as a host prints them."""
    return base64.b64encode(gzip.compress(text)).decode().split("\n")


def test_packed_output_has_limits() -> None:
    """A compromised host could send a bomb, and a connection can break anywhere."""
    frame, inner = framed([]), "\n".join(framed(["@@ machine", "arch amd64", "@@ end"])[1:]).encode()
    heading = f"@@{'0f' * 16} gzip"
    (line,) = packed(inner)
    assert parse([*frame, heading, line]).arch == "amd64"
    assert parse([*frame, heading, line[:50], line[50:]]).arch == "amd64"
    for cut in (*range(0, len(line), 3), len(line) - 4):
        assert "is incomplete" in str(parse([*frame, heading, line[:cut]]).trouble)
    bomb = packed(inner + b"\n" + b" " * UNPACKED_LIMIT)
    assert "is incomplete" in str(parse([*frame, heading, *bomb]).trouble)
    assert "is incomplete" in str(parse([*frame, heading, "not base64 =", *packed(inner)]).trouble)


def test_unpacks_nothing_of_users() -> None:
    """What a user's programs print has one limit, 1 MB, which root's `head` sets."""
    (line,) = packed(b"@@ docker\n{}\n@@ end\n")
    seen = parse(framed(["@@ user ada", "account 1001 1001 /home/ada", "@@ said ada", line, "@@ end"]))
    assert seen.late == {"user ada": "printed more than 1 MB, or was cut off"}


def said(*lines: str, contents: bytes = b"") -> HostFacts:
    """A snapshot with these lines about files."""
    return parse(framed([*lines, "@@ contents", base64.b64encode(contents).decode(), "@@ end"]))


def test_file_without_content_is_said() -> None:
    path = "/etc/docker/daemon.json"
    seen = said("@@ files", f"{path} 644 0 0", "@@ known", path)
    assert seen.unread == ("ignored 1 line from the host that could not be parsed (files 1).",), "gpurack brings none"
    seen = said("@@ files", f"{path} 644 0 0", "@@ known", "@@ differing", f"{'0' * 64} {path}", contents=b"{}\n")
    assert seen.unread == ("ignored 1 line from the host that could not be parsed (files 1).",), "cut off, or another"


def test_file_that_is_replaced_meanwhile_is_the_newer_one() -> None:
    path, old = "/var/lib/gpurack/held", sha256(b"docker-ce\n").hexdigest()
    lines = ["@@ files", f"{path} 644 0 0", "@@ known", "@@ differing", f"{old} {path}"]
    assert said(*lines, contents=f"{path}\0docker-ce\n{path}\0runc\n".encode()).files[path].text == "docker-ce\nrunc\n"
