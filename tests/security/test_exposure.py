"""Who on the network reaches what: nothing is more open than the inventory says, and no web UI waits for an admin."""

import json
import re
import sqlite3
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpurack import listening, paths
from gpurack.engines import ENGINES, weights_of
from gpurack.facts.model import HostFacts
from gpurack.facts.snapshot import Snapshot, script
from gpurack.facts.system import addresses
from gpurack.inventory.checks.clashes import binds_overlap
from gpurack.inventory.checks.warnings import warnings
from gpurack.inventory.fleet import check_fleet, read_fleet
from gpurack.inventory.load import read_inventory
from gpurack.inventory.secrets import read_secrets
from gpurack.plan import offline
from gpurack.plan.host import preview
from gpurack.plan.models import compose, jobs, refusals, weights
from gpurack.plan.models.addresses import address_of, probe_url
from gpurack.plan.models.desired import desire, digest
from gpurack.plan.models.devices import devices
from gpurack.plan.models.diff import Action, Change
from gpurack.plan.models.observed import Observed
from gpurack.plan.models.plan import ModelsPlan
from gpurack.plan.questions import questions
from gpurack.plan.run import Run
from gpurack.spec.host import Host
from gpurack.spec.problems import grouped
from gpurack.spec.weights import belongs
from tests.given import host_state, models, models_plan, running, said, spec
from tests.no_testbed import public_key
from tests.unit.engines.test_engines import CASES, host_of, outcome, read
from tests.unit.host_programs import Fakes, without_parts

ADDRESSES = ("10.0.0.7", "2001:db8::7")
PUBLIC = "8.8.4.4"
INVENTORIES = Path(__file__).resolve().parents[2] / "inventories"
PAGE: dict[str, Any] = {"engine": "open-webui", "version": "0.12.4", "weights": None, "connects_to": ["alpha"]}
VOLUME = "gpurack_open-webui-chat"
READY = {"alpha": [200, '"alpha"'], "beta": [200, '"beta"'], "chat": [200, "true"]}


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", "correct horse")


def plan(spec: Host, facts: HostFacts) -> ModelsPlan:
    return models_plan(spec, facts, read_secrets(spec))


def host(spec: Host | None = None, **said: Any) -> HostFacts:
    """A host with weights. With `wanted`, all its entries run, as created when the host's address was `had`."""
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
def test_refuses_lan_without_default_route_with_addresses(known: tuple[str, ...]) -> None:
    found = plan(models(alpha={"bind": "lan"}, beta={}), host(address="", addresses=known))
    listed = ", ".join(known) or "none found (ip address)"
    assert said(found.errors) == {
        "alpha": "`bind: lan` needs a default route, and the host has none. Set `bind` to one of its addresses: "
        f"{listed}."
    }
    assert actions(found) == {"beta": "create"}
    assert "0.0.0.0" not in json.dumps(ports(found))


def ports(found: ModelsPlan) -> dict[str, Any]:
    """Entry → its published ports in the compose.yaml of a plan."""
    project = (found.job or {"projects": {"": {"services": {}}}})["projects"][""]
    return {name: block["services"][name].partition("ports:")[2][:80] for name, block in project["services"].items()}


def test_keeps_serving_model_without_route_with_warning() -> None:
    wanted = models(alpha={"bind": "lan"}, beta={"bind": "lan"})
    state = host(wanted, address="", had="10.0.0.7", addresses=ADDRESSES)
    found = plan(wanted, state)
    assert (found.errors, actions(found)) == ({}, {"alpha": "keep", "beta": "keep"})
    [warning] = grouped(found.warnings)
    assert warning.startswith("alpha, beta: `bind: lan` needs a default route, and the host has none.")
    assert warning.endswith("10.0.0.7, 2001:db8::7.")
    assert address_of(Observed("alpha", wanted, state)) == "10.0.0.7"


def test_does_not_reopen_model_that_older_gpurack_opened() -> None:
    """Without a route it had every address. It keeps serving with a warning, and is refused when recreated."""
    wanted = models(alpha={"bind": "lan"})
    state = host(wanted, address="", had="0.0.0.0", addresses=ADDRESSES)
    found = plan(wanted, state)
    assert (found.errors, actions(found), len(found.warnings)) == ({}, {"alpha": "keep"}, 1)
    changed = plan(models(alpha={"bind": "lan", "context": 4096}), state)
    assert list(changed.errors) == ["alpha"]
    assert actions(changed) == {}


@pytest.mark.parametrize("action", Action)
def test_new_refusal_is_error_only_for_new_containers(action: Any) -> None:
    assert (Change("alpha", action).action in refusals.MADE) == (action in (Action.CREATE, Action.RECREATE))


def test_public_address_is_one_warning_per_host() -> None:
    wanted = models(alpha={"bind": "lan"}, beta={"bind": "lan"}, gamma={"bind": "loopback"}, delta={"bind": "any"})
    found = plan(wanted, host(address=PUBLIC))
    assert found.errors == {}
    assert said(found.warnings) == (
        "reachable from the internet: alpha:8000, beta:8001. `bind: lan` is the public address 8.8.4.4 here; write "
        'bind: "8.8.4.4" where that is meant, or "loopback".',
    )
    shown = [each for each in preview(wanted, host(address=PUBLIC), Run()).findings if each.kind == "warning"]
    assert [(each.line, each.problems) for each in shown] == [(found.warnings[0].what, found.warnings)]


def test_explicit_address_silences_warning() -> None:
    assert plan(models(alpha={"bind": PUBLIC}), host(address=PUBLIC)).warnings == ()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("10.0.0.7", False), ("172.20.1.1", False), ("192.168.1.2", False), ("100.64.3.4", False),
        ("169.254.1.1", False), ("fd00::7", False), ("fe80::1", False), ("", False), ("lan-address", False),
        ("8.8.4.4", True), ("2a01:4f8::7", True),
    ],
)  # fmt: skip
def test_finds_public_addresses(address: str, public: bool) -> None:
    assert refusals.is_public(address) is public
    assert bool(plan(models(alpha={"bind": "lan"}), host(address=address)).warnings) is public


def test_new_address_recreates_with_reason() -> None:
    wanted = models(alpha={"bind": "lan"})
    [change] = plan(wanted, host(wanted, address="10.0.0.8", had="10.0.0.7")).changes
    assert str(change) == "recreate alpha: published on 10.0.0.7:8000, not on 10.0.0.8:8000"


@pytest.mark.parametrize("address", ["10.0.0.7", "2001:db8::7"])
def test_lan_is_one_address_everywhere(address: str) -> None:
    wanted, state = models(alpha={"bind": "lan"}), host(address=address)
    [port] = desire("alpha", wanted, state, ()).service["ports"]
    assert port["host_ip"] == address_of(Observed("alpha", wanted, state)) == address
    shown = f"[{address}]" if ":" in address else address
    assert probe_url(Observed("alpha", wanted, state)) == f"http://{shown}:8000/v1/models"
    assert listening.overlap(address, state.address)
    held = plan(wanted, replace(state, listeners=host_state(listeners=[f"{shown}:8000 nginx (pid 9)"]).listeners))
    assert held.errors["alpha"].what.startswith("port 8000 is already in use by process nginx")


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("lan", "lan", True), ("lan", "10.0.0.7", True), ("lan", "2001:db8::7", True), ("lan", "any", True),
        ("lan", "loopback", False), ("lan", "127.0.0.1", False), ("lan", "::1", False), ("lan", "::", True),
        ("10.0.0.7", "10.0.0.8", False), ("loopback", "127.0.0.1", True),
    ],
)  # fmt: skip
def test_compares_ports_by_address(one: str, other: str, overlap: bool) -> None:
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
def test_accepts_valid_addresses_only(said: str, found: tuple[str, ...]) -> None:
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


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("families", "address"), [("46", "10.0.0.7"), ("4", "10.0.0.7"), ("6", "2a01:4f8::7"), ("", "")]
)
def test_snapshot_finds_address_of_default_route(fakes: Fakes, families: str, address: str) -> None:
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


def test_refuses_page_without_first_account() -> None:
    found = plan(page(bind="lan"), host())
    assert said(found.errors) == {
        "chat": "its database has no account yet, and the first visitor of the page becomes its administrator. "
        'Give the first account in `keys`: {"admin@uni.example": {"env": "PASSWORD"}}, or write `bind: loopback`.'
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
def test_creates_page_that_needs_no_account(fields: dict[str, Any]) -> None:
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
def test_creates_page_with_external_database_and_warns(fields: dict[str, Any], setting: str) -> None:
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
def test_settings_that_only_look_like_protection_do_not_count(fields: dict[str, Any]) -> None:
    """Open WebUI lets the first visitor sign up whatever ENABLE_SIGNUP says, and creates no account from half of its
    variables."""
    assert list(plan(page(**{"bind": "any", **fields}), host()).errors) == ["chat"]


def test_host_network_is_open_whatever_bind_says() -> None:
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


def test_recreates_page_whose_database_has_account() -> None:
    there = host(accounts=frozenset({("", VOLUME)}))
    assert plan(page(bind="lan"), there).errors == {}
    assert plan(page(bind="lan"), there).warnings == ()
    of_another_user = host(accounts=frozenset({("ada", VOLUME)}))
    assert list(plan(page(bind="lan"), of_another_user).errors) == ["chat"]


def test_keeps_serving_page_without_account_with_warning() -> None:
    wanted = page(bind="lan")
    found = plan(wanted, host(wanted))
    assert (found.errors, actions(found)) == ({}, {"alpha": "keep", "chat": "keep"})
    assert [line.partition(" and ")[0] for line in grouped(found.warnings)] == [
        "chat: its database has no account yet,"
    ]
    changed = page(bind="lan", env={"WEBUI_NAME": "Lab"})
    assert list(plan(changed, host(wanted)).errors) == ["chat"]


def test_offline_plan_warns_of_missing_account() -> None:
    told = [str(problem) for problem in warnings({"gpu1": page(bind="lan")}) if "administrator" in problem.what]
    assert told == [
        "gpu1 services.chat: until its database has an account, the first visitor of the page becomes its "
        'administrator. Give the first account in `keys`: {"admin@uni.example": {"env": "PASSWORD"}}, or write '
        "`bind: loopback`."
    ]


@pytest.mark.parametrize("path", sorted(INVENTORIES.glob("*.py")), ids=lambda path: path.name)
def test_shipped_inventories_need_no_first_visitor(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public_key(tmp_path, monkeypatch)
    fleet = read_fleet(read_inventory(path), secrets=False)
    assert any(fleet.values())
    assert [problem.what for problem in warnings(fleet) if "administrator" in problem.what] == []


def test_examples_in_pages_need_no_first_visitor() -> None:
    """Where it opens a web UI to other machines, it has `keys` for the first account."""
    pages = [*INVENTORIES.parent.glob("docs/*.md"), INVENTORIES.parent / "README.md"]
    entries = [
        text for page in pages for text in re.findall(r'\{"engine": "open-webui".*?\}\}', page.read_text(), re.DOTALL)
    ]
    assert entries
    assert [one for one in entries if '"bind": "lan"' in one and '"keys"' not in one] == []


def database(path: Path, *statements: str, wal: bool = False) -> sqlite3.Connection:
    """webui.db of Open WebUI: a table of users, and one with their passwords."""
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


@pytest.mark.sampled
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
def test_snapshot_sees_account(
    tmp_path: Path, fakes: Fakes, statements: tuple[str, ...], account: bool, wal: bool
) -> None:
    """It writes and locks nothing."""
    folder = tmp_path / "volume"
    folder.mkdir()
    connection = database(folder / "webui.db", *statements, wal=wal)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert snapshot_of(folder, fakes) == ({("", VOLUME)} if account else set())
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert f"docker volume inspect --format {{{{.Mountpoint}}}} {VOLUME}" in fakes.calls
    connection.close()


@pytest.mark.sampled
def test_reads_database_in_use_without_lock(tmp_path: Path, fakes: Fakes) -> None:
    connection = database(tmp_path / "webui.db", TABLE, ADMIN)
    connection.execute("begin exclusive")
    assert snapshot_of(tmp_path, fakes) == {("", VOLUME)}
    connection.close()


@pytest.mark.sampled
@pytest.mark.parametrize("what", ["nothing", "link", "fifo", "folder", "no-database"])
def test_ignores_anything_but_a_database_file(tmp_path: Path, fakes: Fakes, what: str) -> None:
    """Root in a container may put anything there. Nothing is followed or waited for."""
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
    """What a snapshot sees of accounts in a volume at `folder`."""
    fakes.state("place", f"{folder}\n")
    fakes.add("docker", 'case "$*" in "volume inspect"*) cat "$STATE/place";; "ps -aq"*) ;; *) exit 1;; esac')
    text = without_parts(script(questions(page(bind="lan"))), "Docker")
    done = subprocess.run(["sh", "-s"], input=text, capture_output=True, text=True, timeout=30)
    return set(Snapshot().process(done.stdout.splitlines()).accounts)


# --- privileges and shared memory of containers ----------------------------------------------------------------------

MADE = [path for path in CASES if "service" in (case := read(path)) and "compose" not in case["model"]]
"""The cases of all engines (tests/unit/engines) whose container is gpurack's own decision."""
in_all_cases = pytest.mark.parametrize("path", MADE, ids=lambda path: f"{path.parent.name}/{path.stem}")
FIELDS: dict[str, dict[str, Any]] = {
    "llama.cpp": {"version": "b7000", "weights": "/w/a.gguf"},
    "vllm": {"version": "0.33.0", "weights": "/w/m", "gpus": [0]},
    "sglang": {"version": "0.5.23", "weights": "/w/m", "gpus": [0]},
    "tei": {"version": "1.9", "weights": "/w/m"},
    "ollama": {"version": "0.33.0", "weights": None, "pull": ["qwen2.5:7b"]},
    "litellm": {"version": "1.109.1", "weights": None, "connects_to": "all"},
    "open-webui": {"version": "0.12.4", "weights": None, "connects_to": "all"},
}
"""The entries of the tests that are about one engine."""


@pytest.fixture
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LAB_KEY", "OTHER_KEY"):
        monkeypatch.setenv(name, f"sk-{name}")


def test_every_engine_has_a_case_that_is_inspected_here() -> None:
    missing = sorted(set(ENGINES) - {path.parent.name for path in MADE})
    assert not missing, f"add a case with `service` and without `compose` to tests/unit/engines/{missing[0]}/"


def service_of(engine: str, **fields: Any) -> Mapping[str, Any]:
    wanted = check_fleet({"gpu1": [inventory_of(engine, **fields) | {"hardware": {"A30": 4}}]})["gpu1"]
    uuids = ("GPU-0",) if wanted.entries["alpha"].gpus else ()
    return desire("alpha", wanted, offline.imagined(wanted), uuids).service


def inventory_of(engine: str, **fields: Any) -> dict[str, Any]:
    """A host's data with one entry of this engine, and a model that services can connect to."""
    behind = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf", "port": 9000}
    inventory: dict[str, Any] = {"models": {"behind": behind}, "services": {}}
    kind = "services" if ENGINES[engine].service else "models"
    inventory[kind]["alpha"] = {"engine": engine, **FIELDS[engine], "port": 8000, **fields}
    return inventory


@in_all_cases
@pytest.mark.usefixtures("_keys")
def test_programs_get_no_more_privileges(path: Path) -> None:
    service = outcome(read(path))["service"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "ipc", "pid", "userns_mode"} & set(service)


@in_all_cases
@pytest.mark.usefixtures("_keys")
def test_container_cannot_change_host(path: Path) -> None:
    """What it may write are volumes of its own; of the host it gets its weights, keys and configuration, read-only."""
    case = read(path)
    wanted = host_of(case)
    entry = wanted.entries[case["name"]]
    own = [weights.mount(weights.place(wanted, one, entry.dockerd))[0] for one in weights_of(entry)]
    own.append(paths.container_file(entry.dockerd, case["name"], "").rstrip("/"))
    mounts = [mount for mount in outcome(case)["service"].get("volumes", []) if mount["type"] == "bind"]
    others = [mount["source"] for mount in mounts if not any(belongs(mount["source"], one) for one in own)]
    assert others == [], "no socket of Docker's, and no other folder"
    assert all(mount["read_only"] for mount in mounts)


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
def test_adds_options_of_entry_which_win(own: list[str] | None, found: list[str] | None) -> None:
    assert service_of("llama.cpp", compose={"security_opt": own}).get("security_opt") == found


def test_jobs_get_no_more_privileges() -> None:
    job = {"command": ["-p", "hello"], "weights": "/w/a.gguf"}
    wanted = spec({"jobs": {"ask": job, "sudo": {**job, "compose": {"security_opt": ["no-new-privileges:false"]}}}})
    desired = [jobs.desire_job(name, wanted) for name in ("ask", "sudo")]
    options = [jobs.service(one, devices(one.entry, (), wanted, host()), wanted)["security_opt"] for one in desired]
    assert options == [["no-new-privileges:true"], ["no-new-privileges:false"]]
    assert desired[0].definition == jobs.desire_job("ask", spec({"jobs": {"ask": job}})).definition


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_multi_gpu_servers_share_memory_only_with_themselves(engine: str) -> None:
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
def test_compose_opts_out(own: dict[str, Any], found: tuple[str | None, str | None]) -> None:
    service = service_of("vllm", compose=own)
    assert (service.get("ipc"), service.get("shm_size")) == found


def test_running_containers_stay_unchanged() -> None:
    """By the upgrade rule only (tests/unit/test_upgrade_rule.py): settings of an older gpurack stay."""
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
def test_warns_of_settings_that_log_prompts(engine: str, fields: dict[str, Any], settings: str | None) -> None:
    found = warnings(check_fleet({"gpu1": [inventory_of(engine, **fields)]}))
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
def test_warns_of_sources_without_verification(kind: str, git: str, revision: str, warned: bool) -> None:
    entry = {"engine": "llama.cpp", "image": {"build": {"git": git, "revision": revision}}, "weights": "/w/a.gguf"}
    entry |= {"port": 8000} if kind == "models" else {"command": ["-m", "{weights}"]}
    told = [problem.what for problem in warnings(check_fleet({"gpu1": [{kind: {"alpha": entry}}]}))]
    found = [what for what in told if "on its way" in what]
    assert len(found) == warned
    assert all(git in what and "full commit" in what for what in found)
