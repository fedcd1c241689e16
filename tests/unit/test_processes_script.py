"""files/processes.py on a host: which processes a container has, how it is stopped, when its GPU memory is free."""

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.host_programs import Fakes, load

pytestmark = pytest.mark.sampled

ID, OTHER = "a" * 64, "b" * 64
SLICE = "/user.slice/user-1001.slice/user@1001.service/user.slice/docker-{}.scope"
ANOTHERS = SLICE.replace("1001", "1002")
GPU, SECOND = "GPU-aaaa", "GPU-bbbb"
DOCKER = """
for name; do :; done
case "$*" in
"container inspect"*) [ -e "$STATE/state.$name" ] && exec cat "$STATE/state.$name"
    [ -e "$STATE/hangs" ] && exec sleep 20
    echo "Error: No such container: $name"; exit 1;;
"stop"*)
    behaviour=$(cat "$STATE/stop.$name" 2>/dev/null)
    case "$behaviour" in
    hangs) exec sleep 20;;
    refuses) echo "permission denied"; exit 1;;
    late) sleep 0.3;;
    esac
    sed -i 's/running/exited/' "$STATE/state.$name"
    [ "$behaviour" != lies ] || { echo "client closed"; exit 1; };;
esac
"""


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = load("processes")
    own = re.search(r"/user-(\d+)\.slice/", Path("/proc/self/cgroup").read_text())
    if own:  # the tests run in a user's session
        module.IN_SLICE = re.compile(rf"/user-(?!{own[1]}\.)(\d+)\.slice/")
    module.BEYOND_GRACE = 1
    return module


def daemon(user: str = "", uid: int = 0) -> Any:
    """What processes.py uses of a Dockerd."""
    return SimpleNamespace(
        user=user, uid=uid, allowed=lambda limit: limit, by_hand="docker", docker=lambda *words: ["docker", *words],
    )  # fmt: skip


@pytest.fixture
def docker(fakes: Fakes) -> Fakes:
    fakes.add("docker", DOCKER)
    return fakes


def runs(docker: Fakes, container: str = ID, pid: int = 0, status: str = "running", grace: object = None) -> None:
    told = {"status": status, "pid": pid, "restarts": 0, "code": 0, "error": "", "started": "2026-11-29T10:00:00Z"}
    docker.state(f"state.{container}", {**told, "grace": grace})


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A real process."""
    made = subprocess.Popen(["sleep", "60"])
    yield made
    made.kill()
    made.wait()


# --- which ------------------------------------------------------------------------------------------------------------


def proc_of(folder: Path, *found: tuple[int, int, str], started: int = 7000) -> str:
    """A /proc with (pid, parent, cgroup) of processes whose names look like other fields. Returns its path."""
    for pid, parent, cgroup in found:
        one = folder / str(pid)
        (one / "task" / str(pid)).mkdir(parents=True)
        (one / "cgroup").write_text(cgroup + "\n")
        numbers = " ".join(["0"] * 17)
        (one / "stat").write_text(f"{pid} (a) S 1 (b c) S {parent} {numbers} {started + pid} 0 0\n")
        (one / "comm").write_text("vllm\n")
    (folder / "self").mkdir(parents=True, exist_ok=True)
    return str(folder)


@pytest.mark.parametrize(
    ("cgroup", "belongs"),
    [
        (f"0::/system.slice/docker-{ID}.scope", True),
        (f"0::/system.slice/docker-{ID}.scope/init", True),
        (f"12:pids:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/system.slice/docker.service", True),
        (f"0::/system.slice/docker-{OTHER}.scope", False),
        ("0::/", False),
        (f"0::/system.slice/docker-{ID[:12]}.scope", False),
    ],
    ids=["v2", "below", "v1", "another", "none", "short"],
)
def test_finds_processes_by_cgroup(processes: Any, tmp_path: Path, cgroup: str, belongs: bool) -> None:
    proc = proc_of(tmp_path, (41, 1, cgroup), (1, 0, "0::/init.scope"))
    assert processes.of_container(daemon(), ID, 0, proc) == ({(41, 7041)} if belongs else set())


def test_finds_descendants_where_daemon_makes_no_cgroups(processes: Any, tmp_path: Path) -> None:
    """A rootless daemon on cgroup v1. Also a child that left its parent, as far as its cgroup names the container."""
    place = "0::/user.slice/user-1001.slice/user@1001.service"
    proc = proc_of(
        tmp_path, (10, 1, place), (20, 10, place), (21, 20, place), (22, 21, place), (30, 10, place),
        (31, 1, SLICE.format(ID)),
    )  # fmt: skip
    assert processes.of_container(daemon("ada", 1001), ID, 20, proc) == {(20, 7020), (21, 7021), (22, 7022), (31, 7031)}


def test_waits_for_no_process_of_another_user(processes: Any, tmp_path: Path) -> None:
    """A user may give a cgroup any name, and a user's daemon any pid."""
    processes.IN_SLICE = load("processes").IN_SLICE
    named_like_hers = ANOTHERS.partition("docker-")[0] + SLICE.lstrip("/")
    proc = proc_of(
        tmp_path, (1, 0, "0::/init.scope"), (41, 1, SLICE.format(ID)), (42, 1, ANOTHERS.format(ID)),
        (43, 1, f"0::/system.slice/docker-{ID}.scope"), (44, 1, named_like_hers.format(ID)),
        (45, 1, f"0::/system.slice/docker-{ID}.scope/user-1001.slice/x"),
    )  # fmt: skip
    assert processes.of_container(daemon("ada", 1001), ID, 1, proc) == {(41, 7041)}
    assert processes.of_container(daemon("ada", 1001), ID, 44, proc) == {(41, 7041)}
    assert processes.of_container(daemon(), ID, 0, proc) == {(43, 7043), (45, 7045)}


def test_asks_docker_for_main_process(processes: Any, docker: Fakes, child: subprocess.Popen[bytes]) -> None:
    runs(docker, pid=child.pid)
    assert [pid for pid, _ in processes.of_container(daemon(), ID)] == [child.pid]
    assert processes.of_container(daemon(), OTHER) == set()


def test_finds_the_dockerd_of_a_user(processes: Any, tmp_path: Path) -> None:
    proc = proc_of(tmp_path, (41, 1, ""), (42, 1, ""), (43, 1, ""), (44, 1, ""))
    for pid, name, uid in ((41, "dockerd", 0), (42, "dockerd", 1001), (43, "dockerd-x", 0), (44, "dockerd", 100)):
        (tmp_path / str(pid) / "status").write_text(f"Name:\t{name}\nState:\tS\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
    assert processes.daemons(daemon(), proc) == {(41, 7041)}
    assert processes.daemons(daemon("ada", 1001), proc) == {(42, 7042)}
    assert processes.daemons(daemon("bob", 10), proc) == set()


def test_process_with_same_pid_is_another_one(processes: Any, child: subprocess.Popen[bytes]) -> None:
    ours = (child.pid, processes.fields("/proc", child.pid)["start"])
    assert processes.survivors({ours, (child.pid, ours[1] - 1)}) == {ours}
    child.kill()
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert processes.survivors({ours}) == set(), "a zombie holds no memory"
    child.wait()
    assert processes.survivors({ours}) == set()


def test_zombie_with_threads_still_holds_memory(processes: Any, tmp_path: Path) -> None:
    proc = proc_of(tmp_path, (41, 1, ""))
    stat = tmp_path / "41" / "stat"
    stat.write_text(stat.read_text().replace(") S 1 0", ") Z 1 0"))
    assert not processes.alive((41, 7041), proc)
    (tmp_path / "41" / "task" / "45").mkdir()
    assert processes.alive((41, 7041), proc)


# --- stop -------------------------------------------------------------------------------------------------------------


def test_stop_returns_processes_of_before(processes: Any, docker: Fakes, child: subprocess.Popen[bytes]) -> None:
    runs(docker, pid=child.pid)
    assert [pid for pid, _ in processes.stop(daemon(), ID, 3)] == [child.pid]
    assert f"docker stop -t 3 {ID}" in docker.calls


@pytest.mark.parametrize(
    ("own", "seconds"), [(None, 30), (0, 0), (90, 90), (100_000, 600), (-1, 30), (True, 30), ("90", 30)]
)
def test_stop_takes_the_containers_own_grace_period(processes: Any, docker: Fakes, own: object, seconds: int) -> None:
    """Compose's stop_grace_period; a user's Docker may say anything."""
    runs(docker, grace=own)
    processes.stop(daemon(), ID)
    assert f"docker stop -t {seconds} {ID}" in docker.calls


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [("hangs", r"no answer within 1 s"), ("refuses", "permission denied")],
)
def test_stop_that_fails_names_survivors(
    processes: Any, docker: Fakes, child: subprocess.Popen[bytes], behaviour: str, why: str
) -> None:
    """On the host's own daemon also: `docker stop` was seen to take 999 s."""
    runs(docker, pid=child.pid)
    docker.state(f"stop.{ID}", behaviour)
    begun = time.monotonic()
    with pytest.raises(Exception, match=rf"docker stop failed \({why}\); still running: pid {child.pid} \(sleep\)$"):
        processes.stop(daemon(), ID, 0)
    assert time.monotonic() - begun < 10


def test_state_decides_whether_stop_failed(processes: Any, docker: Fakes) -> None:
    """The client may end early while the daemon finishes the stop."""
    runs(docker)
    docker.state(f"stop.{ID}", "lies")
    assert processes.stop(daemon(), ID, 0) == set()
    assert processes.stop(daemon(), OTHER, 0) == set(), "it is gone"


def test_stops_paused_container(processes: Any, docker: Fakes) -> None:
    runs(docker, status="paused")
    with pytest.raises(Exception, match=r"Docker says that it is paused"):
        processes.stop(daemon(), ID, 0)  # the fake stays as it is
    assert f"docker unpause {ID}" in docker.calls


def test_stops_side_by_side_with_a_result_for_each(processes: Any, docker: Fakes) -> None:
    for container, behaviour in ((ID, "hangs"), (OTHER, "late"), ("c" * 64, "late")):
        runs(docker, container)
        docker.state(f"stop.{container}", behaviour)
    begun = time.monotonic()
    processes.GRACE = 1
    wanted = {name: (daemon(), container) for name, container in zip("abc", (ID, OTHER, "c" * 64), strict=True)}
    found = processes.stop_together(wanted)
    assert (found["b"], found["c"]) == (set(), set())
    assert "no answer within 2 s" in str(found["a"])
    assert isinstance(found["a"], processes.Failure)
    assert time.monotonic() - begun < 12


@pytest.mark.parametrize(("user", "asked"), [("", [1, 1, 2, 3]), ("ann", [1, 2, 3, 4])])
def test_docker_is_asked_again_when_the_main_process_has_ended(
    processes: Any, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, user: str, asked: list[int]
) -> None:
    """A user's Docker is asked each time: the process that it names may be anybody's."""
    asks: list[str] = []

    def state(daemon: Any, container: str) -> dict[str, Any]:
        asks.append(container)
        return {"status": "running", "pid": child.pid, "restarts": 0}

    monkeypatch.setattr(processes, "state", state)
    watched = processes.Watched(daemon(user), ID)
    found = []
    for _ in range(2):
        assert watched.state()["pid"] == child.pid
        found.append(len(asks))
    child.kill()
    child.wait()
    for _ in range(2):
        watched.state()
        found.append(len(asks))
    assert found == asked


def test_silent_docker_is_a_failure(processes: Any, docker: Fakes) -> None:
    docker.state("hangs", "")
    processes.QUERY = 0.3
    with pytest.raises(processes.Failure, match="no answer within"):
        processes.state(daemon(), ID)


@pytest.mark.parametrize("answer", ["{}", "no", json.dumps({"status": 1, "pid": "x"}), '{"status":"running","pid":1}'])
def test_invalid_answer_is_a_failure(processes: Any, docker: Fakes, answer: str) -> None:
    docker.state(f"state.{ID}", answer)
    with pytest.raises(processes.Failure, match="no valid answer"):
        processes.state(daemon(), ID)


# --- GPU memory -------------------------------------------------------------------------------------------------------

SMI = 'case "$*" in *compute-apps*) cat "$STATE/apps";; *query-gpu*) cat "$STATE/gpus";; esac'


@pytest.fixture
def smi(fakes: Fakes) -> Fakes:
    """nvidia-smi with two GPUs; pid 41 has 1000 MiB of the first, pid 50 has 300 MiB."""
    fakes.add("nvidia-smi", SMI)
    fakes.state("apps", f"41, {GPU}, 1000\n50, {GPU}, 300\n")
    fakes.state("gpus", f"{GPU}, 1400\n{SECOND}, 20\n")
    return fakes


STOPPED = {(41, 7041)}


def wait(processes: Any, folder: Path, uuids: tuple[str, ...] = (GPU,), before: Any = None) -> str:
    """What keeps it waiting; "" when the memory is free."""
    return str(processes.why_not_free(STOPPED, uuids, before or {}, str(folder)))


def test_waits_until_processes_and_their_memory_are_gone(processes: Any, smi: Fakes, tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    proc_of(proc, (41, 1, ""))
    before = processes.memory_of(STOPPED, (GPU, SECOND))
    assert before == {GPU: (1400, 1000)}
    assert wait(processes, proc, before=before).startswith("still running: pid 41 (")
    (proc / "41" / "stat").unlink()
    assert wait(processes, proc, before=before) == "the driver still lists pid 41"
    smi.state("apps", f"50, {GPU}, 300\n")
    assert wait(processes, proc, before=before) == f"{GPU} has 1400 MiB in use, 1000 MiB more than before"
    smi.state("gpus", f"{GPU}, 450\n{SECOND}, 20\n")
    assert wait(processes, proc, before=before) == ""


def test_rows_of_an_nvidia_smi_that_fails_count(processes: Any, smi: Fakes, tmp_path: Path) -> None:
    """14: a damaged infoROM, and every GPU answers."""
    proc_of(tmp_path / "proc")
    smi.add("nvidia-smi", f"{SMI}\necho 'WARNING: infoROM is corrupted at gpu 0000:17:00.0'; exit 14")
    assert processes.memory_of(STOPPED, (GPU, SECOND)) == {GPU: (1400, 1000)}
    assert wait(processes, tmp_path / "proc") == "the driver still lists pid 41"


def test_growth_of_others_is_not_waited_for(processes: Any, smi: Fakes, tmp_path: Path) -> None:
    proc_of(tmp_path / "proc")
    before = processes.memory_of(STOPPED, (GPU,))
    smi.state("apps", f"50, {GPU}, 9000\n")
    smi.state("gpus", f"{GPU}, 9100\n")
    assert wait(processes, tmp_path / "proc", before=before) == ""


@pytest.mark.parametrize("apps", [f"41, {GPU}, [N/A]", f"41, {GPU}, [Not Supported]", "junk", ""])
def test_unknown_memory_is_not_waited_for(processes: Any, smi: Fakes, tmp_path: Path, apps: str) -> None:
    proc_of(tmp_path / "proc")
    smi.state("apps", apps)
    assert processes.memory_of(STOPPED, (GPU,)) == {}
    smi.state("apps", "")
    assert wait(processes, tmp_path / "proc") == ""


def test_waits_for_memory_of_amd_gpus(processes: Any, fakes: Fakes, tmp_path: Path) -> None:
    proc_of(tmp_path / "proc")
    (tmp_path / "kfd" / "41").mkdir(parents=True)
    processes.KFD_PROCESSES = str(tmp_path / "kfd")
    fakes.add("nvidia-smi", "exit 9")
    assert wait(processes, tmp_path / "proc") == "the driver still lists pid 41"
    (tmp_path / "kfd" / "41").rmdir()
    assert wait(processes, tmp_path / "proc") == ""


def test_model_on_cpu_waits_for_its_processes_only(processes: Any, fakes: Fakes, tmp_path: Path) -> None:
    fakes.add("nvidia-smi", "exec sleep 20")
    proc_of(tmp_path / "proc")
    assert wait(processes, tmp_path / "proc", ()) == ""
    processes.QUERY = 0.3
    assert wait(processes, tmp_path / "proc") == "nvidia-smi gives no answer"


def test_wait_ends_when_memory_is_free(
    processes: Any, smi: Fakes, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ends during the wait."""
    ours = {(child.pid, processes.fields("/proc", child.pid)["start"])}
    ended = threading.Timer(0.3, child.kill)
    ended.start()
    processes.wait_for_memory("alpha", ours, (GPU,))
    assert not processes.survivors(ours)
    ended.join()


def test_wait_has_a_limit_and_names_what_is_left(processes: Any, smi: Fakes, child: subprocess.Popen[bytes]) -> None:
    processes.MEMORY_TIMEOUT = 0.3
    ours = {(child.pid, processes.fields("/proc", child.pid)["start"])}
    with pytest.raises(processes.Failure) as failure:
        processes.wait_for_memory("alpha", ours, (GPU,))
    what = f"GPU memory was not freed within 0.3 s: still running: pid {child.pid} (sleep). See nvidia-smi or rocm-smi"
    assert str(failure.value) == what


def test_names_the_first_few(processes: Any) -> None:
    assert processes.describe({(os.getpid(), 1)}).startswith(f"pid {os.getpid()} (")
    assert processes.describe({(pid, 1) for pid in range(5_000_001, 5_000_009)}).endswith("pid 5000005 (ended), 3 more")
