"""Random bytes in every section of the snapshot and in every answer of a model: no exception, and no change outside of
the section's own paths.
"""

from __future__ import annotations

import base64
import json
import re
from io import StringIO

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gpurack.commands.lab_status import host_status
from gpurack.commands.status import show
from gpurack.facts.model import HostFacts
from gpurack.facts.snapshot import Snapshot
from gpurack.locking.manifest import manifest
from gpurack.locking.observe import observed
from gpurack.plan.host import MODELS, SET_UP, preview
from gpurack.plan.remove import plan_remove
from gpurack.plan.run import Run
from gpurack.plan.steps import Shell, WriteFile, WriteFiles
from gpurack.plan.system.rootless import plan_rootless
from tests.given import container, framed, host_state, running, spec
from tests.unit.host_programs import FILES
from tests.unit.test_parse import ID, IMAGE, PIECES, SECTIONS, inspected, plain_look
from tests.unit.test_status import NOW

WANTED = spec(
    {
        "docker": {"rootless": {"ada": {}}},
        "models": {"alpha": {"port": 8000}, "hers": {"port": 8001, "user": "ada", "gpus": [0]},
                   "lama": {"engine": "ollama", "version": "0.33.0", "weights": None, "port": 8002, "pull": ["a:1"]}},
    }
)  # fmt: skip
SUBJECTS = {
    "user": "ada",
    "said": "ada",
    "probe": "alpha",
    "cuda": "alpha",
    "counter": "alpha",
    "inspected": "/w/a.gguf",
}
"""What a section is about, of those that are about something."""


def sections_of(script: str) -> list[str]:
    """The sections that a script of files/ prints, but the two that say that it is complete."""
    text = re.sub(r"(?m)^\s*#.*", "", (FILES / script).read_text())
    plain = set(re.findall(r"\bsection ([a-z]+)", text)) - {"end", "whole"}
    return sorted(plain | {f"{word} {SUBJECTS[word]}" for word in re.findall(r'\bsection "([a-z]+) \$', text)})


HERS = [name.replace("alpha", "hers") for name in sections_of("snapshot_docker.sh")]
EVERY = sorted({*sections_of("snapshot.sh"), *sections_of("snapshot_docker.sh")})
EVIL = "/etc/apt/sources.list.d/evil.list"
HOSTILE = [
    *PIECES,
    f"{EVIL} 644 0 0 {base64.b64encode(b'deb http://evil').decode()}",
    "@@ files",
    "@@ end",
    "@@ no-sudo",
    "@@ raised",
    "/usr/local/share/ca-certificates/gpurack-$(touch x).crt 644 0 0 YQ==",
    "/etc/apt/keyrings/gpurack-;id.asc 644 0 0 YQ==",
    "account 1001 1001 /home/ada",
    "account 0 0 /",
    "folder 777 x",
    "unit LoadState=loaded",
    "ii |$(id)|1",
    "ii |docker-ce|$(id)",
    f"{IMAGE}|ghcr.io/x:1",
    f"{IMAGE}|[7]",
    f"{IMAGE}|{{",
    "9" * 5000 + " regular file|/w",
    "LISTEN 0 0 *:99999 *:*  ino:1 ",
    "GPU-a,1,2,ada,,x",
    "GPU-a,99999999999999999999,2,ada,,x",
    "0, GPU-x, $(id), 1, 1, 1, 1, 1, 1, 1",
    "now 9999-12-31T23:59:59-14:00",
    "now 2026-11-20T09:00:00",
    "now 0001-01-01T00:00:00+14:00",
    "exit 18|\x1b[31m",
    "kfd 999999999999999999999999999",
    "alpha|1|200|x",
    "card gpu_id 1|drm_render_minor 1|location_id x|domain -1|unique_id 9" + "9" * 30,
    "process 1,1,1,a,,b",
    "subuid ada:x:y",
    "subuid ada:100000:65536",
    "uid x",
    "docker*|(none)|1|x86_64|9",
    "docker-ce|7|1-1|x86_64|9",
    "2026-11-20T02:11:09,1+00:00 NVRM: Xid (PCI:0): 79, x",
    '{"path": "/w/a.gguf", "tensors": {"a": 1e400}, "config": {"n": 7}}',
    '{"ServerVersion":"28.5.2","NCPU":"x","Runtimes":[7],"MemTotal":-1}',
    '{"ServerVersion":"28.5.2\\n@@ files","SecurityOptions":[7],"CDISpecDirs":"x","LiveRestoreEnabled":1}',
    json.dumps(inspected()),
    json.dumps(inspected(name="/alpha x;id")),
    json.dumps(inspected(name="/-rf")),
    json.dumps(inspected(id="$(id)")),
    json.dumps(inspected(image="sha256:../x")),
    json.dumps(inspected(labels={"gpurack.model": "{", "a": 7})),
    json.dumps(inspected(labels=[7])),
    json.dumps(inspected(ports={"8080/tcp": [{"HostIp": "$(id)", "HostPort": "8000-8010"}]})),
    json.dumps(inspected(restarts=1e999)),
    json.dumps(inspected(labels={"gpurack.model": "\ud800"})),
    json.dumps(inspected(labels={"gpurack.model": '{"gpus": "[0]", "uuids": [7, {}], "env": "x"}'})),
]
LINES = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=30), max_size=4)
BYTES = st.binary(max_size=40).map(lambda raw: raw.decode(errors="replace"))


TRIED: dict[str, list[str]] = {}
"""Most bytes mean nothing to gpurack, so they give facts that an earlier example had already."""


def everything(facts: HostFacts) -> list[str]:
    """Everything that any command makes of the facts, including the commands of root."""
    key = repr(facts)
    if key not in TRIED:
        TRIED[key] = commands_of(facts)
    return TRIED[key]


def commands_of(facts: HostFacts) -> list[str]:
    """The commands of root. Uses `findings`, because its callers turn exceptions into a message (test_commands.py)."""
    show(Console(file=StringIO(), width=200), [host_status("gpu1", WANTED, facts, NOW)], NOW, verbose=True)
    list(preview(WANTED, facts, Run()).findings)
    if facts.trouble:
        return []
    observed(WANTED, facts)
    manifest(WANTED, facts, [])
    plans = [plan_remove(facts, "models"), plan_remove(facts, "all"), plan_rootless(WANTED, facts, True)]
    steps = [step for plan in plans for step in plan.steps]
    written = [step.path for step in steps if isinstance(step, WriteFile)]
    assert all(path.startswith(("/etc/", "/usr/local/", "/var/lib/gpurack/")) for path in written)
    commands = [step.command for step in steps if isinstance(step, Shell)]
    for command in commands:
        for named in re.findall(r"\brm -r?f ([^;&|]*)", command):
            assert all(re.fullmatch(r"'?/[A-Za-z0-9._/@+:-]+'?", path) for path in named.split()), command
    return commands


def of_root(facts: HostFacts) -> dict[str, str]:
    """What a run would do as root besides the models, and to those of the host's Docker: a path or an action → all of
    it."""
    if facts.blind:
        return {}
    steps = [step for stage in SET_UP for step in stage.plan(WANTED, facts, Run()).steps if not step.user]
    files = [file for step in steps for file in (step.files if isinstance(step, WriteFiles) else [step])]
    found = {str(getattr(file, "path", repr(file))): repr(file) for file in files}
    models = MODELS.plan(WANTED, facts, Run())
    found |= {f"{one.action} {one.model}": repr(one) for one in models.changes if one.model in ("alpha", "lama")}
    return found


def snapshot_with(section: str, lines: list[str]) -> HostFacts:
    """A correct snapshot with this section changed."""
    plain = plain_look()
    if f"@@ {section}" in plain:
        begin = plain.index(f"@@ {section}") + 1
        end = next(index for index in range(begin, len(plain)) if plain[index].startswith("@@ "))
        plain[begin:end] = []
        at = begin
    else:
        at = len(plain) - 1
        plain.insert(at, f"@@ {section}")
        at += 1
    framed_lines = framed(plain)
    return Snapshot().process([*framed_lines[: at + 1], *lines, *framed_lines[at + 1 :]])


def test_the_sections_are_all_that_there_are() -> None:
    assert set(SECTIONS) <= set(EVERY)
    assert {"late", "mounts", "accounts", "said ada", "inspected /w/a.gguf"} <= set(EVERY)
    assert {"own", "files", "containers", "probe hers"} <= set(HERS)


@given(section=st.sampled_from(EVERY), lines=LINES | st.lists(BYTES, max_size=3))
def test_any_bytes_in_a_section_give_facts(section: str, lines: list[str]) -> None:
    state = snapshot_with(section, lines)
    assert section == "late" or not state.trouble
    paths = {path for path in of_root(state).keys() - of_root(snapshot_with("", [])) if path.startswith("/")}
    assert section in ("os", "machine") or all(any(path in line for line in lines) for path in paths)
    commands = everything(state)
    assert not any("$(id)" in command or "$(touch" in command or ";id" in command for command in commands)


def said(section: str, lines: list[str]) -> list[str]:
    """ada's programs print this."""
    text = "\n".join([f"@@ {section}", *lines, "@@ end"]).encode(errors="replace")
    return ["@@ user ada", "account 1001 1001 /home/ada", "@@ said ada", base64.b64encode(text).decode()]


@given(section=st.sampled_from([*HERS, *EVERY]), lines=LINES | st.lists(BYTES, max_size=3))
def test_user_output_is_in_no_section_of_root(section: str, lines: list[str]) -> None:
    plain = plain_look()
    state = Snapshot().process(framed([*plain[:-1], *said(section, lines), "@@ end"]))
    without = Snapshot().process(framed([*plain[:-1], *said("own", []), "@@ end"]))
    everything(state)
    assert of_root(state) == of_root(without)
    own = {f"/home/ada/{name}" for name in (".config/docker/daemon.json",)} | {"/run/user/1001/gpurack-docker-restart"}
    assert set(state.files) - set(without.files) <= own | {
        path for path in state.files if path.startswith("/home/ada/.config/")
    }
    assert {path: state.files[path] for path in without.files} == dict(without.files)
    assert [found for found in state.containers if not found.user] == list(without.containers)
    assert (state.packages, state.units, state.docker, state.images, state.secrets, state.listeners, state.gpus) == (
        without.packages, without.units, without.docker, without.images, without.secrets, without.listeners,
        without.gpus,
    )  # fmt: skip
    assert {user for user, _ in {*state.probes, *state.counters, *state.cuda_logs} - {("", "alpha")}} <= {"ada"}


@given(raw=st.binary(max_size=300))
def test_any_bytes_of_a_user_give_facts(raw: bytes) -> None:
    lines = ["@@ user ada", "account 1001 1001 /home/ada", "@@ said ada", base64.b64encode(raw).decode()]
    state = Snapshot().process(framed([*plain_look()[:-1], *lines, "@@ end"]))
    assert not state.trouble
    assert of_root(state) == of_root(Snapshot().process(framed([*plain_look()[:-1], *said("own", []), "@@ end"])))
    everything(state)


@given(
    body=st.binary(max_size=200)
    | st.sampled_from([b'{"models": [{"name": 7}]}\n200', b'{"models": 7}\n200', b'{"a":' * 50000 + b"\n200"])
)
def test_any_answer_of_a_model_gives_facts(body: bytes) -> None:
    alpha, lama = (running(WANTED, name, host_state()) for name in ("alpha", "lama"))
    probe = base64.b64encode(body).decode()
    lines = ["@@ probe lama", probe, "@@ probe alpha", probe, "@@ counter alpha", body.decode(errors="replace")]
    seen = Snapshot().process(framed([*lines, "@@ end"]))
    everything(
        host_state(containers=(alpha, lama), probes={name: [p.status, p.body] for (_, name), p in seen.probes.items()})
    )


WORDS = ["gpus", "uuids", "env", "args", "keys", "hosts", "files", "api_key", "vram", "x"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)


@given(label=st.text(max_size=40) | VALUES.map(json.dumps))
def test_any_label_gives_facts(label: str) -> None:
    everything(host_state(gpus=1, containers=(container("alpha", label=label), container("lama", label=label))))


def test_garbage_is_one_error() -> None:
    for lines in ([], ["garbage"], ["@@ end"], ["@@ mark x"], [f"@@ mark {'0' * 32}", "@@ end"], ["\x00" * 50], [ID]):
        state = Snapshot().process(lines)
        assert len([each for each in preview(WANTED, state, Run()).findings if each.line]) == 1
        assert host_status("gpu1", WANTED, state, NOW).state == "UNREACHABLE"
