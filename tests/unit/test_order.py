"""In which order hosts run their operations."""

from types import SimpleNamespace
from typing import Any

import pytest
from gevent.event import Event
from gevent.pool import Pool

from gpurack.operations import order


def test_stuck_host_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """gpu1's first operation ends only when gpu2 has done its last one. What asks other hosts waits for all."""
    ran: list[tuple[str, str]] = []
    done, gpu1, gpu2, gpu3 = Event(), "gpu1", "gpu2", "gpu3"

    def run(state: Any, host: str, operation: str) -> bool:
        if (host, operation) == (gpu1, "Docker"):
            assert done.wait(10), "gpu2 waits for gpu1"
        ran.append((host, operation))
        if (host, operation) == (gpu2, "Models"):
            done.set()
        return host != gpu3

    failed: set[str] = set()
    state: Any = SimpleNamespace(
        pool=Pool(),
        get_op_order=lambda: ["Docker", "Models", "Connections", "Own"],
        get_op_meta=lambda operation: SimpleNamespace(names={f"GPU host | {operation}"}),
        inventory=SimpleNamespace(get_active_hosts=lambda: [gpu1, gpu2, gpu3]),
        fail_hosts=failed.update,
    )
    monkeypatch.setattr(order, "log_operation_start", lambda meta: None)
    monkeypatch.setattr(order, "run_on_host", run)
    monkeypatch.setattr(order, "run_on_all", lambda state, operation: ran.append(("all", operation)))
    order.run_operations(state)
    assert [operation for host, operation in ran if host == gpu1] == ["Docker", "Models"]
    assert ran[-2:] == [("all", "Connections"), ("all", "Own")], "each waits for all hosts"
    assert failed == {gpu3}
    assert (gpu3, "Models") not in ran, "a host that failed leaves the run"
