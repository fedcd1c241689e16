"""Who on the network reaches what: nothing is opened wider than the inventory says, and no page waits for an admin."""

import json
import sqlite3
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpurack import paths
from gpurack.engines import ENGINES
from gpurack.facts.model import HostFacts
from gpurack.facts.parse import addresses
from gpurack.facts.snapshot import Snapshot, script
from gpurack.inventory.checks.clashes import binds_overlap
from gpurack.inventory.checks.warnings import warnings
from gpurack.inventory.fleet import check_fleet
from gpurack.inventory.secrets import read_secrets
from gpurack.plan import offline
from gpurack.plan.host import Run, findings
from gpurack.plan.models import compose, jobs, refusals
from gpurack.plan.models.addresses import address_of, probe_url
from gpurack.plan.models.desired import desire, digest
from gpurack.plan.models.devices import devices
from gpurack.plan.models.diff import Action, Change
from gpurack.plan.models.plan import ModelsPlan, plan_models
from gpurack.plan.models.preflight import addresses_overlap
from gpurack.plan.questions import questions
from gpurack.spec.host import Host
from tests.given import SALT, host_state, models, running, spec
from tests.unit.host_programs import Fakes, without_parts

ADDRESSES = ("10.0.0.7", "2001:db8::7")
PUBLIC = "8.8.4.4"
PAGE: dict[str, Any] = {"engine": "open-webui", "version": "0.12.4", "weights": None, "connects_to": ["alpha"]}
VOLUME = "gpurack_open-webui-chat"
READY = {"alpha": [200, '"alpha"'], "beta": [200, '"beta"'], "chat": [200, "true"]}


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", "correct horse")


def plan(spec: Host, facts: HostFacts) -> ModelsPlan:
    return plan_models(spec, facts, read_secrets(spec), SALT)


def host(spec: Host | None = None, **said: Any) -> HostFacts:
    """A host with weights; with `wanted`, all of that runs on it, as it was when the host had `had` as its address."""
    had = said.pop("had", said.get("address", "10.0.0.7"))
    words = {"weights": {"/w/a.gguf": 1}, "probes": READY, **said}
    if spec is None:
        return host_state(**words)
    then = host_state(**{**words, "address": had})
    secrets = read_secrets(spec)
    ours = [running(spec, name, then, secrets=secrets.get(name, {})) for name in spec.entries]
    return host_state(**words, containers=ours)


def actions(found: ModelsPlan) -> dict[str, str]:
    return {change.model: change.action for change in found.changes}


def page(**fields: Any) -> Host:
    return spec({"models": {"alpha": {"port": 8000}}, "services": {"chat": {**PAGE, "port": 3000, **fields}}})


# --- bind: lan -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [ADDRESSES, ()])
def test_without_a_default_route_lan_is_refused_and_the_hosts_addresses_are_named(known: tuple[str, ...]) -> None:
    found = plan(models(alpha={"bind": "lan"}, beta={}), host(address="", addresses=known))
    listed = ", ".join(known) or "none found (ip address)"
    assert found.errors == {
        "alpha": "`bind: lan` needs a default route, and the host has none. Set `bind` to one of its addresses: "
        f"{listed}."
    }
    assert actions(found) == {"beta": "create"}
    assert "0.0.0.0" not in json.dumps(ports(found))


def ports(found: ModelsPlan) -> dict[str, Any]:
    """Entry → the lines of its ports in the compose.yaml that a plan makes."""
    project = (found.job or {"projects": {"": {"services": {}}}})["projects"][""]
    return {name: block["services"][name].partition("ports:")[2][:80] for name, block in project["services"].items()}


def test_a_model_that_serves_when_its_route_is_gone_goes_on_with_a_warning() -> None:
    wanted = models(alpha={"bind": "lan"}, beta={"bind": "lan"})
    state = host(wanted, address="", had="10.0.0.7", addresses=ADDRESSES)
    found = plan(wanted, state)
    assert (found.errors, actions(found)) == ({}, {"alpha": "keep", "beta": "keep"})
    [warning] = found.warnings
    assert warning.startswith("alpha, beta: `bind: lan` needs a default route, and the host has none.")
    assert warning.endswith("10.0.0.7, 2001:db8::7.")
    assert address_of("alpha", wanted, state) == "10.0.0.7"


def test_one_that_an_older_gpurack_opened_to_everybody_is_not_opened_again() -> None:
    """Without a route it took every address. It serves on, warned of; made anew it is refused."""
    wanted = models(alpha={"bind": "lan"})
    state = host(wanted, address="", had="0.0.0.0", addresses=ADDRESSES)
    found = plan(wanted, state)
    assert (found.errors, actions(found), len(found.warnings)) == ({}, {"alpha": "keep"}, 1)
    changed = plan(models(alpha={"bind": "lan", "context": 4096}), state)
    assert list(changed.errors) == ["alpha"]
    assert actions(changed) == {}


@pytest.mark.parametrize("action", Action)
def test_a_new_refusal_is_an_error_for_what_is_made_alone(action: Any) -> None:
    assert (Change("alpha", action).action in refusals.MADE) == (action in (Action.CREATE, Action.RECREATE))


def test_a_public_address_is_one_warning_for_the_host_and_blocks_nothing() -> None:
    wanted = models(alpha={"bind": "lan"}, beta={"bind": "lan"}, gamma={"bind": "loopback"}, delta={"bind": "any"})
    found = plan(wanted, host(address=PUBLIC))
    assert found.errors == {}
    assert found.warnings == (
        "reachable from the internet: alpha:8000, beta:8001. `bind: lan` is the public address 8.8.4.4 here; write "
        'bind: "8.8.4.4" where that is meant, or "loopback".',
    )
    shown = [line for kind, line in findings(wanted, host(address=PUBLIC), Run()) if kind == "warning"]
    assert shown == list(found.warnings)


def test_writing_the_address_silences_it() -> None:
    assert plan(models(alpha={"bind": PUBLIC}), host(address=PUBLIC)).warnings == ()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("10.0.0.7", False), ("172.20.1.1", False), ("192.168.1.2", False), ("100.64.3.4", False),
        ("169.254.1.1", False), ("fd00::7", False), ("fe80::1", False), ("", False), ("lan-address", False),
        ("8.8.4.4", True), ("2a01:4f8::7", True),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert refusals.is_public(address) is public
    assert bool(plan(models(alpha={"bind": "lan"}), host(address=address)).warnings) is public


def test_a_new_address_moves_a_model_and_says_so() -> None:
    wanted = models(alpha={"bind": "lan"})
    [change] = plan(wanted, host(wanted, address="10.0.0.8", had="10.0.0.7")).changes
    assert str(change) == "recreate alpha: published on 10.0.0.7:8000, not on 10.0.0.8:8000"


@pytest.mark.parametrize("address", ["10.0.0.7", "2001:db8::7"])
def test_lan_is_the_one_address_in_every_place(address: str) -> None:
    wanted, state = models(alpha={"bind": "lan"}), host(address=address)
    [port] = desire("alpha", wanted, state, ()).service["ports"]
    assert port["host_ip"] == address_of("alpha", wanted, state) == address
    shown = f"[{address}]" if ":" in address else address
    assert probe_url("alpha", wanted, state) == f"http://{shown}:8000/v1/models"
    assert addresses_overlap(address, state.address)
    held = plan(wanted, replace(state, listeners=host_state(listeners=[f"{shown}:8000 nginx (pid 9)"]).listeners))
    assert held.errors["alpha"].startswith("port 8000 is already in use by process nginx")


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("lan", "lan", True), ("lan", "10.0.0.7", True), ("lan", "2001:db8::7", True), ("lan", "any", True),
        ("lan", "loopback", False), ("lan", "127.0.0.1", False), ("lan", "::1", False), ("lan", "::", True),
        ("10.0.0.7", "10.0.0.8", False), ("loopback", "127.0.0.1", True),
    ],
)  # fmt: skip
def test_ports_are_compared_by_addresses(one: str, other: str, overlap: bool) -> None:
    assert binds_overlap(one, other) is binds_overlap(other, one) is overlap


# --- what a host says of its addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("10.0.0.7", ("10.0.0.7",)),
        ("10.0.0.7 2001:db8::7 10.0.0.7", ("10.0.0.7", "2001:db8::7")),
        ("fe80::1 169.254.7.7 127.0.0.1 ::1 0.0.0.0 ::", ()),
        ("10.0.0.7;reboot $(reboot) 10.0.0.300 -x \x1b[2J 1 0x7f000001", ()),
        ("", ()),
    ],
)
def test_only_addresses_are_taken_for_addresses(said: str, found: tuple[str, ...]) -> None:
    assert addresses(said) == found


ROUTES = {
    "4": "192.0.2.1 via 10.0.0.1 dev eth0 src 10.0.0.7 uid 0 \\    cache ",
    "6": "2001:db8::1 from :: via fe80::1 dev eth0 proto ra src 2a01:4f8::7 metric 100 pref medium",
}
LISTED = """\
2: eth0    inet 10.0.0.7/24 brd 10.0.0.255 scope global eth0\\       valid_lft forever preferred_lft forever
2: eth0    inet6 2a01:4f8::7/64 scope global dynamic mngtmpaddr \\       valid_lft 86000sec preferred_lft 14000sec
3: docker0    inet 172.17.0.1/16 brd 172.17.255.255 scope global docker0\\       valid_lft forever
4: br-0123456789ab    inet 172.18.0.1/16 brd 172.18.255.255 scope global br-0123456789ab\\       valid_lft forever
5: wg0    inet 10.9.0.1/32 scope global wg0\\       valid_lft forever preferred_lft forever
"""


@pytest.mark.parametrize(
    ("families", "address"), [("46", "10.0.0.7"), ("4", "10.0.0.7"), ("6", "2a01:4f8::7"), ("", "")]
)
def test_the_snapshot_finds_the_address_of_the_default_route(fakes: Fakes, families: str, address: str) -> None:
    for family, route in ROUTES.items():
        fakes.state(f"route{family}", route + "\n")
    fakes.state("addresses", LISTED)
    answers = " ".join(f'*-{family}*route*) cat "$STATE/route{family}";;' for family in families)
    fakes.add("ip", f'case "$*" in {answers} *address*) cat "$STATE/addresses";; *) exit 2;; esac')
    done = subprocess.run(
        ["sh", "-s"],
        input=without_parts(script(questions(models(alpha={}))), "system"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    seen = Snapshot().process(done.stdout.splitlines())
    assert (seen.address, seen.addresses) == (address, ("10.0.0.7", "2a01:4f8::7", "10.9.0.1"))


# --- Open WebUI's first account --------------------------------------------------------------------------------------


def test_a_page_for_the_lab_without_a_first_account_is_not_made() -> None:
    found = plan(page(bind="lan"), host())
    assert found.errors == {
        "chat": "its database has no account yet, and whoever opens the page first becomes its administrator. Give the "
        'first account in `keys`: {"admin@uni.example": {"env": "PASSWORD"}}, or write `bind: loopback`.'
    }
    assert actions(found) == {"alpha": "create"}


@pytest.mark.parametrize(
    "fields",
    [
        {"bind": "loopback"},
        {"bind": "lan", "keys": {"admin@uni.example": {"env": "PASSWORD"}}},
        {"bind": "lan", "env": {"WEBUI_ADMIN_EMAIL": "admin@uni.example", "WEBUI_ADMIN_PASSWORD": "correct horse"}},
        {"bind": "lan", "env": {"WEBUI_AUTH": "False"}},
    ],
    ids=str,
)
def test_what_needs_none_is_made(fields: dict[str, Any]) -> None:
    wanted = page(**fields)
    assert plan(wanted, host()).errors == {}
    assert questions(wanted).volumes == ()
    assert not [problem for problem in warnings({"gpu1": wanted}) if "administrator" in problem.what]


@pytest.mark.parametrize(
    ("fields", "setting"),
    [
        ({"env": {"DATABASE_URL": "postgresql://db/chat"}}, "env.DATABASE_URL"),
        ({"compose": {"volumes": ["old_webui:/app/backend/data"]}}, "compose.volumes"),
    ],
)
def test_a_database_of_its_own_is_made_and_warned_of(fields: dict[str, Any], setting: str) -> None:
    def told(spec: Host) -> list[str]:
        return [problem.what for problem in warnings({"gpu1": spec}) if "administrator" in problem.what]

    wanted = page(bind="lan", **fields)
    assert plan(wanted, host()).errors == {}
    assert [refusals.unclaimed_volume(name, one) for name, one in wanted.services.items()] == [None]
    assert [what.partition(":")[0] for what in told(wanted)] == [setting]
    assert told(page(bind="loopback", **fields)) == []
    assert told(page(bind="lan", keys={"admin@uni.example": {"env": "PASSWORD"}}, **fields)) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"env": {"ENABLE_SIGNUP": "False"}},
        {"env": {"WEBUI_ADMIN_PASSWORD": "correct horse"}},
        {"bind": "loopback", "compose": {"network_mode": "host"}},
        {"env": {"WEBUI_ADMIN_EMAIL": "admin@uni.example", "WEBUI_ADMIN_PASSWORD": ""}},
        {"compose": {"volumes": ["/etc/ssl:/etc/ssl:ro"]}},
    ],
    ids=str,
)
def test_what_only_looks_like_protection_is_none(fields: dict[str, Any]) -> None:
    """Open WebUI lets the first one sign up whatever ENABLE_SIGNUP says, and makes no account of half of its words."""
    assert list(plan(page(**{"bind": "any", **fields}), host()).errors) == ["chat"]


def test_a_model_in_the_hosts_own_network_is_open_whatever_its_bind() -> None:
    """Its server listens on all addresses there."""
    told = {
        mode: [
            what
            for what in map(str, warnings({"gpu1": models(alpha={"compose": {"network_mode": mode}})}))
            if "no key" in what
        ]
        for mode in ("host", "bridge")
    }
    assert [len(told["host"]), told["bridge"]] == [1, []]


def test_a_page_whose_database_has_an_account_is_made_anew() -> None:
    there = host(accounts=frozenset({("", VOLUME)}))
    assert plan(page(bind="lan"), there).errors == {}
    assert plan(page(bind="lan"), there).warnings == ()
    of_another_user = host(accounts=frozenset({("ada", VOLUME)}))
    assert list(plan(page(bind="lan"), of_another_user).errors) == ["chat"]


def test_a_page_that_serves_without_one_goes_on_with_a_warning() -> None:
    wanted = page(bind="lan")
    found = plan(wanted, host(wanted))
    assert (found.errors, actions(found)) == ({}, {"alpha": "keep", "chat": "keep"})
    assert [warning.partition(" and ")[0] for warning in found.warnings] == ["chat: its database has no account yet,"]
    changed = page(bind="lan", env={"WEBUI_NAME": "Lab"})
    assert list(plan(changed, host(wanted)).errors) == ["chat"]


def test_the_plan_without_a_connection_says_that_it_is_needed() -> None:
    told = [str(problem) for problem in warnings({"gpu1": page(bind="lan")}) if "administrator" in problem.what]
    assert told == [
        "gpu1 services.chat: until its database has an account, whoever opens the page first becomes its "
        'administrator. Give the first account in `keys`: {"admin@uni.example": {"env": "PASSWORD"}}, or write '
        "`bind: loopback`."
    ]


def database(path: Path, *statements: str, wal: bool = False) -> sqlite3.Connection:
    """webui.db as Open WebUI has it: a table of users and one of their passwords."""
    connection = sqlite3.connect(path)
    if wal:
        connection.execute("pragma journal_mode = wal")
    connection.execute("create table auth (id text, email text, password text, active integer)")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    return connection


TABLE = 'create table "user" (id text, email text, role text)'
ADMIN = "insert into user values ('1', 'admin@uni.example', 'admin')"
PASSWORD = "$2b$12$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy"
REMAINS = f"insert into auth values ('1', 'admin@uni.example', '{PASSWORD}', 1)"
ENDLESS = "with recursive n(x) as (select 1 union all select x + 1 from n) select x from n where x < 0"


@pytest.mark.parametrize("wal", [False, True], ids=["journal", "wal"])
@pytest.mark.parametrize(
    ("statements", "account"),
    [
        ((), False),
        ((TABLE,), False),
        ((TABLE, ADMIN), True),
        ((TABLE, ADMIN, REMAINS, "delete from user"), False),
        ((f'create view "user" as {ENDLESS}',), False),
        (('create virtual table "user" using fts5(id)', "insert into user values ('1')"), False),
    ],
    ids=["no-table", "nobody", "somebody", "deleted", "endless-view", "virtual-table"],
)
def test_the_snapshot_sees_whether_there_is_an_account(
    tmp_path: Path, fakes: Fakes, statements: tuple[str, ...], account: bool, wal: bool
) -> None:
    """Nothing is written or locked meanwhile."""
    folder = tmp_path / "volume"
    folder.mkdir()
    connection = database(folder / "webui.db", *statements, wal=wal)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert snapshot_of(folder, fakes) == ({("", VOLUME)} if account else set())
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert f"docker volume inspect --format {{{{.Mountpoint}}}} {VOLUME}" in fakes.calls
    connection.close()


def test_a_database_that_somebody_writes_is_read_without_a_lock(tmp_path: Path, fakes: Fakes) -> None:
    connection = database(tmp_path / "webui.db", TABLE, ADMIN)
    connection.execute("begin exclusive")
    assert snapshot_of(tmp_path, fakes) == {("", VOLUME)}
    connection.close()


@pytest.mark.parametrize("what", ["nothing", "link", "fifo", "folder", "no-database"])
def test_what_stands_in_the_place_of_the_database_is_none(tmp_path: Path, fakes: Fakes, what: str) -> None:
    """A container's root may put anything there: nothing is followed, and nothing waited for."""
    folder = tmp_path / "volume"
    folder.mkdir()
    place = folder / "webui.db"
    if what == "link":
        database(tmp_path / "elsewhere", TABLE, ADMIN).close()
        place.symlink_to(tmp_path / "elsewhere")
    elif what == "fifo":
        subprocess.run(["mkfifo", place], check=True)
    elif what == "folder":
        place.mkdir()
    elif what == "no-database":
        place.write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    assert snapshot_of(folder, fakes) == set()


def snapshot_of(folder: Path, fakes: Fakes) -> set[tuple[str, str]]:
    """What a look at a host sees of accounts in a volume that lies in `folder`."""
    fakes.state("place", f"{folder}\n")
    fakes.add("docker", 'case "$*" in "volume inspect"*) cat "$STATE/place";; "ps -aq"*) ;; *) exit 1;; esac')
    text = without_parts(script(questions(page(bind="lan"))), "Docker")
    done = subprocess.run(["sh", "-s"], input=text, capture_output=True, text=True, timeout=30)
    return set(Snapshot().process(done.stdout.splitlines()).accounts)


# --- privileges and shared memory of containers ----------------------------------------------------------------------

EVERY: dict[str, dict[str, Any]] = {
    "llama.cpp": {"version": "b7000", "weights": "/w/a.gguf"},
    "vllm": {"version": "0.33.0", "weights": "/w/m", "gpus": [0]},
    "sglang": {"version": "0.5.23", "weights": "/w/m", "gpus": [0]},
    "tei": {"version": "1.9", "weights": "/w/m"},
    "llama-cpp-python": {"version": "0.3.36", "weights": "/w/a.gguf"},
    "ollama": {"version": "0.33.0", "weights": None, "pull": ["qwen2.5:7b"]},
    "custom": {"version": None, "image": "some/app:1.2", "compose": {"expose": ["8000"]}},
    "litellm": {"version": "1.109.1", "weights": None, "connects_to": "all"},
    "open-webui": {"version": "0.12.4", "weights": None, "connects_to": "all"},
    "llama-gpt": {"version": "latest", "weights": None, "connects_to": ["behind"]},
}


def test_every_engine_is_looked_at() -> None:
    assert set(EVERY) == set(ENGINES)


def service_of(engine: str, **fields: Any) -> Mapping[str, Any]:
    kind = "services" if ENGINES[engine].service else "models"
    entry = {"engine": engine, **EVERY[engine], "port": 8000, **fields}
    behind = {"engine": "llama-cpp-python", "version": "0.3.36", "weights": "/w/a.gguf", "port": 9000}
    inventory: dict[str, dict[str, Any]] = {"models": {"behind": behind}, "services": {}}
    inventory[kind]["alpha"] = entry
    wanted = check_fleet({"gpu1": [inventory | {"hardware": {"A30": 4}}]})["gpu1"]
    uuids = ("GPU-0",) if entry.get("gpus") else ()
    return desire("alpha", wanted, offline.imagined(wanted), uuids).service


@pytest.mark.parametrize("engine", sorted(EVERY))
def test_no_program_of_a_container_gets_more_privileges(engine: str) -> None:
    service = service_of(engine)
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "ipc", "pid", "userns_mode"} & set(service)


@pytest.mark.parametrize("engine", sorted(EVERY))
def test_a_container_changes_nothing_of_the_hosts(engine: str) -> None:
    """What it may write are volumes of its own. `/w` is where the inventory has weights."""
    mounts = service_of(engine).get("volumes", [])
    paths = [mount["source"] for mount in mounts if mount["type"] == "bind"]
    assert [path for path in paths if not path.startswith("/w/")] == [], "no socket of Docker's, and no other folder"
    assert all(mount["read_only"] for mount in mounts if mount["type"] == "bind")


@pytest.mark.parametrize(
    ("own", "found"),
    [
        (["label=disable"], ["no-new-privileges:true", "label=disable"]),
        (["no-new-privileges:false"], ["no-new-privileges:false"]),
        (["no-new-privileges=false", "label=disable"], ["no-new-privileges=false", "label=disable"]),
        (["no-new-privileges"], ["no-new-privileges"]),
        ([], ["no-new-privileges:true"]),
        (None, None),
    ],
)
def test_an_entrys_own_options_are_added_and_win(own: list[str] | None, found: list[str] | None) -> None:
    assert service_of("llama.cpp", compose={"security_opt": own}).get("security_opt") == found


def test_jobs_get_none_either() -> None:
    job = {"command": ["-p", "hello"], "weights": "/w/a.gguf"}
    wanted = spec({"jobs": {"ask": job, "sudo": {**job, "compose": {"security_opt": ["no-new-privileges:false"]}}}})
    desired = [jobs.desire_job(name, wanted) for name in ("ask", "sudo")]
    options = [jobs.service(one, devices(one.entry, (), wanted, host()), wanted)["security_opt"] for one in desired]
    assert options == [["no-new-privileges:true"], ["no-new-privileges:false"]]
    assert desired[0].definition == jobs.desire_job("ask", spec({"jobs": {"ask": job}})).definition


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_servers_on_several_cards_share_memory_with_themselves_alone(engine: str) -> None:
    service = service_of(engine, gpus=[0, 1])
    assert (service.get("ipc"), service["shm_size"]) == (None, "32gb")


@pytest.mark.parametrize(
    ("own", "found"),
    [
        ({"ipc": "host"}, ("host", None)),
        ({"ipc": "host", "shm_size": "8gb"}, ("host", "8gb")),
        ({"ipc": "private"}, ("private", "32gb")),
        ({"shm_size": "8gb"}, (None, "8gb")),
        ({"shm_size": None}, (None, None)),
        ({"ipc": None}, (None, "32gb")),
    ],
    ids=str,
)
def test_compose_opts_out_of_it(own: dict[str, Any], found: tuple[str | None, str | None]) -> None:
    service = service_of("vllm", compose=own)
    assert (service.get("ipc"), service.get("shm_size")) == found


def test_none_of_it_reaches_a_container_that_runs() -> None:
    """By the upgrade rule alone (tests/unit/test_upgrade_rule.py): what an older gpurack made stays."""
    wanted = spec({"models": {"alpha": {"port": 8000}}})
    state = host(wanted)
    [alpha] = state.containers
    words = json.loads(alpha.labels["gpurack.model"])
    made = {**desire("alpha", wanted, state, ()).service, "ipc": "host"}
    del made["security_opt"]
    label = json.dumps({**words, "service": digest(made)}, sort_keys=True)
    text = compose.document({"alpha": {**made, "labels": {"gpurack.model": label}}})
    there = host_state(
        weights={"/w/a.gguf": 1}, probes=READY, files={paths.compose_file(""): text},
        containers=[replace(alpha, labels={**alpha.labels, "gpurack.model": label})],
    )  # fmt: skip
    assert actions(plan(wanted, there)) == {"alpha": "keep"}


# --- warnings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "fields", "settings"),
    [
        ("vllm", {"args": {"enable-log-requests": True}}, "args.enable-log-requests"),
        ("vllm", {"args": {"enable_log_outputs": True}}, "args.enable-log-outputs"),
        ("vllm", {"args": {"enable-log-requests": False}}, None),
        ("vllm", {"version": "0.9.2"}, "args without disable-log-requests"),
        ("vllm", {"version": "0.9.2", "args": {"disable-log-requests": True}}, None),
        ("vllm", {"version": "0.33.0"}, None),
        ("sglang", {"args": {"log-requests": True}}, "args.log-requests"),
        ("sglang", {"args": {"log-requests": True, "log-requests-level": 3}}, "args.log-requests"),
        ("sglang", {"args": {"log-requests": True, "log-requests-level": 0}}, None),
        ("sglang", {"args": {"crash-dump-folder": "/tmp"}}, "args.crash-dump-folder"),
        ("sglang", {"args": {"export-metrics-to-file": True}}, "args.export-metrics-to-file"),
        ("sglang", {"args": {"export-metrics-to-file": True, "log-requests": True, "log-requests-level": 1}}, None),
        ("vllm", {"env": {"VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "1"}}, "env.VLLM_DEBUG_LOG_API_SERVER_RESPONSE"),
        ("vllm", {"env": {"VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "false"}}, None),
        ("llama.cpp", {"version": "b9400", "env": {"LLAMA_ARG_LOG_VERBOSITY": "5"}}, "env.LLAMA_ARG_LOG_VERBOSITY"),
        ("llama.cpp", {"version": "b9000", "env": {"LLAMA_LOG_VERBOSITY": "3"}}, None),
        ("llama.cpp", {"args": {"verbose": True}}, "args.verbose"),
        ("llama.cpp", {"args": {"v": True}}, "args.v"),
        ("llama.cpp", {"version": "b7000", "args": {"log-verbosity": 1}}, "args.log-verbosity"),
        ("llama.cpp", {"version": "b9000", "args": {"lv": 3}}, None),
        ("llama.cpp", {"version": "b9000", "args": {"lv": 5}}, "args.lv"),
        ("llama.cpp", {"args": {"log-prompts-dir": "/tmp"}}, "args.log-prompts-dir"),
        ("ollama", {"env": {"OLLAMA_DEBUG": "1"}}, "env.OLLAMA_DEBUG"),
        ("ollama", {"env": {"OLLAMA_DEBUG": "0"}}, None),
        ("ollama", {"env": {"OLLAMA_DEBUG_LOG_REQUESTS": "true"}}, "env.OLLAMA_DEBUG_LOG_REQUESTS"),
        ("litellm", {"args": {"detailed_debug": True}}, "args.detailed_debug"),
        ("litellm", {"env": {"LITELLM_LOG": "DEBUG"}}, "env.LITELLM_LOG"),
        ("open-webui", {"env": {"AUDIT_LOG_LEVEL": "REQUEST_RESPONSE"}}, "env.AUDIT_LOG_LEVEL"),
        ("open-webui", {"env": {"AUDIT_LOG_LEVEL": "METADATA"}}, None),
        ("tei", {}, None),
    ],
)
def test_settings_that_write_prompts_into_a_log_are_warned_of(
    engine: str, fields: dict[str, Any], settings: str | None
) -> None:
    entry = {"engine": engine, **EVERY[engine], "port": 8000, **fields}
    kind = "services" if ENGINES[engine].service else "models"
    behind = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf", "port": 9000}
    inventory: dict[str, dict[str, Any]] = {"models": {"behind": behind}, "services": {}}
    inventory[kind]["alpha"] = entry
    found = warnings(check_fleet({"gpu1": [inventory]}))
    expected = [f"{settings}: what clients ask is written to its log on the host."] if settings else []
    assert [problem.what for problem in found if "what clients ask" in problem.what] == expected


@pytest.mark.parametrize(
    ("git", "revision", "warned"),
    [
        ("http://git.lab/llama.git", "main", True),
        ("git://git.lab/llama.git", "b7000", True),
        ("http://git.lab/llama.git", "ab12cd3", True),
        ("http://git.lab/llama.git", "0123456789abcdef0123456789abcdef01234567", False),
        ("https://git.lab/llama.git", "main", False),
        ("ssh://git@git.lab/llama.git", "main", False),
        ("git@git.lab:llama.git", "main", False),
    ],
)
@pytest.mark.parametrize("kind", ["models", "jobs"])
def test_sources_that_anyone_on_the_way_can_change_are_warned_of(
    kind: str, git: str, revision: str, warned: bool
) -> None:
    entry = {"engine": "llama.cpp", "image": {"build": {"git": git, "revision": revision}}, "weights": "/w/a.gguf"}
    entry |= {"port": 8000} if kind == "models" else {"command": ["-m", "{weights}"]}
    told = [problem.what for problem in warnings(check_fleet({"gpu1": [{kind: {"alpha": entry}}]}))]
    found = [what for what in told if "on its way" in what]
    assert len(found) == warned
    assert all(git in what and "full commit" in what for what in found)
