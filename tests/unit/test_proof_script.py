"""files/proof.py on a host, with real sockets."""

import os
import socket
from collections.abc import Iterator

import pytest

from tests.unit.host_programs import load

proof = load("proof")


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """A listening socket."""
    with socket.socket(socket.AF_INET6 if ":" in request.param else socket.AF_INET) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            made.bind((request.param, 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        made.listen()
        yield made


def test_port_in_use_names_its_program(listener: socket.socket) -> None:
    address, port, *_ = listener.getsockname()
    everywhere = "::" if ":" in address else "0.0.0.0"
    for place in (address, everywhere):
        said = proof.port_free(place, port)
        assert said.startswith(f"port {port} is in use by ")
        assert f"(pid {os.getpid()})" in said


def test_free_port_stays_free(listener: socket.socket) -> None:
    """Also right after a server on it has ended with open connections."""
    address, port, *_ = listener.getsockname()
    with socket.create_connection((address, port)) as client:
        served, _ = listener.accept()
        served.close()
        client.recv(1)
    listener.close()
    assert [proof.port_free(address, port) for _ in range(2)] == ["", ""]


def test_address_of_another_host_is_named() -> None:
    said = proof.port_free("192.0.2.1", 8000)
    assert said == "the address 192.0.2.1 is not on this host, so port 8000 cannot be published there"


def test_other_ports_do_not_count(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert proof.listening(port)
    assert not proof.listening(port) & proof.listening(port + 1)
