"""The pytest plugin: `--inventory`, `--limit`, and tests for each `gpurack_host` or `gpurack_model`.

pytest loads it wherever gpurack is installed (entry point pytest11), so it imports nothing of other rooms until an
inventory is named. Threads gather the evidence of all hosts once, in parallel. pytest's own workers (xdist) would each
gather it again.
"""

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gpurack.verify.arguments import ARGUMENTS, HOST, MODEL

if TYPE_CHECKING:
    from gpurack.verify.lab import Lab, Server

DEEP = "deep"
_LAB: "pytest.StashKey[Lab]" = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options."""
    group = parser.getgroup("gpurack", "gpurack: are hosts what the inventory says?")
    group.addoption("--inventory", type=Path, metavar="FILE", help="the inventory to check its hosts against")
    group.addoption(
        "--limit", action="append", default=[], metavar="HOST", help="only these hosts or groups; patterns allowed"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", f"{DEEP}: reads all weights, which takes minutes; only run with -m {DEEP}")


def pytest_collection(session: pytest.Session) -> None:
    """Read the inventory, if one is named. Raises UsageError with all its errors."""
    path: Path | None = session.config.getoption("inventory")
    if path is None:
        return
    from gpurack.spec.problems import InventoryError
    from gpurack.verify.lab import Lab

    try:
        session.config.stash[_LAB] = Lab(path, session.config.getoption("limit"))
    except InventoryError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Create one item for each host or model that a test's `where` applies to."""
    for argument in ARGUMENTS:
        if argument in metafunc.fixturenames:
            lab = lab_of(metafunc.config)
            where = getattr(metafunc.function, "where", lambda checked: True)
            every = (lab.servers.values() if argument == HOST else lab.entries()) if lab else ()
            chosen = [checked for checked in every if where(checked)]
            metafunc.parametrize(argument, chosen, ids=[checked.title.replace(" ", "-") for checked in chosen])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect deep items without -m deep, and items without a host or model."""
    if _LAB not in config.stash:
        if any({*ARGUMENTS} & {*parameters(item)} for item in items):
            raise pytest.UsageError("name the lab to check: --inventory inventories/lab.py")
        return
    wants_deep = DEEP in config.getoption("markexpr")
    left_out = [item for item in items if not applies(item) or (item.get_closest_marker(DEEP) and not wants_deep)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Ask only the hosts of the selected items, and hash weights only if a deep item is selected.

    Items of a host in maintenance are skipped.
    """
    lab = lab_of(session.config)
    if lab:
        servers = [server_of(item) for item in session.items]
        lab.needed = {server.name for server in servers if server and not server.spec.maintenance}
        for item, server in zip(session.items, servers, strict=True):
            if server and server.spec.maintenance:
                item.add_marker(pytest.mark.skip(reason=f"{server.name}: maintenance: {server.spec.maintenance}"))
        lab.deep = any(item.get_closest_marker(DEEP) for item in session.items)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Say which hosts are in maintenance, and why; nothing where pytest itself says nothing (-qq)."""
    lab = lab_of(config)
    servers = lab.servers.values() if lab and config.get_verbosity() > -2 else ()
    return [f"{each.name}: skipped, maintenance: {each.spec.maintenance}" for each in servers if each.spec.maintenance]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Disconnect from the hosts."""
    if lab := lab_of(config):
        lab.disconnect()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Print hosts' output without control characters, also in XML and in users' own checks."""
    report = yield
    if _LAB in item.config.stash:
        from gpurack.screen import printable

        if isinstance(report.longrepr, tuple):
            path, line, why = report.longrepr
            report.longrepr = (path, line, printable(why))
        elif (text := report.longreprtext) != printable(text):
            report.longrepr = printable(text)
        report.sections = [(title, printable(content)) for title, content in report.sections]
    return report


def lab_of(config: pytest.Config) -> "Lab | None":
    """Return the lab under test, or None."""
    return config.stash.get(_LAB, None)


def server_of(item: pytest.Item) -> "Server | None":
    """Return the host that a test is about, or None."""
    params = parameters(item)
    found: Server | None = params[HOST] if HOST in params else params[MODEL].server if MODEL in params else None
    return found


def parameters(item: pytest.Item) -> dict[str, Any]:
    """Return what a test was parametrized with."""
    return item.callspec.params if hasattr(item, "callspec") else {}


def applies(item: pytest.Item) -> bool:
    """If it asks for a host or model, does it have one? pytest leaves a placeholder for an empty list."""
    return all(hasattr(parameters(item)[argument], "title") for argument in ARGUMENTS if argument in parameters(item))
