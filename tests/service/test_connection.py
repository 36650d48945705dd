"""Refusals at the door, over raw sockets: who is one too many, whatever pieces a request comes in."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from service.connection import whole_post
from tests.service.running import Running, wait_for

BODY = b'{"history": ["i1"]}'
LIMIT = 4


def post(path: str = "/recommend", *headers: str, body: bytes = BODY) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


@pytest.mark.parametrize("request_", [post(), post("/recommend?x=1"), post("/events", "Connection: keep-alive")])
def test_one_whole_post_is_known_as_such(request_: bytes) -> None:
    assert whole_post(request_) == request_.split(b" ")[1]


@pytest.mark.parametrize(
    "request_",
    [
        post()[:-1], post() + b"P", post()[:40], b"", b"\r\n\r\n", post() * 2,
        post().replace(b"POST", b"GET"), post().replace(b"1.1", b"1.0"), post(" /recommend"),
        post("/recommend", "Connection: close"), post("/recommend", "Transfer-Encoding: chunked"),
        post("/recommend", "expect: 100-continue"), post().replace(b"Content-Length", b"X-Length"),
        post().replace(b"Content-Length: ", b"Content-Length: -"), post("/recommend", "Upgrade : h2c"),
    ],
)  # fmt: skip
def test_anything_else_is_left_to_the_parser(request_: bytes) -> None:
    assert whole_post(request_) is None


@pytest.fixture(scope="module")
def service(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(toy_bundle, tmp_path_factory.mktemp("data"), max_in_flight=str(LIMIT)) as running:
        yield running


@pytest.fixture
def full(service: Running) -> Iterator[Running]:
    """A service whose places are all taken by requests whose bodies do not come."""
    holders = [connect(service) for _ in range(LIMIT)]
    for holder in holders:
        holder.sendall(post()[:-1])
    wait_for(lambda: service.metric("retort_http_requests_in_flight") == LIMIT + 1)
    yield service
    for holder in holders:
        holder.close()
    wait_for(lambda: service.metric("retort_http_requests_in_flight") == 1)


def connect(service: Running) -> socket.socket:
    url = urlsplit(service.url)
    return socket.create_connection((url.hostname, url.port), timeout=10)


def read_status(connection: socket.socket) -> int:
    """Read one reply to its end; 0 where the connection was closed."""
    reply = b""
    while b"\r\n\r\n" not in reply:
        piece = connection.recv(65536)
        if not piece:
            return 0
        reply += piece
    head, _, body = reply.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65536)
    assert len(body) == length
    return int(head.split(b" ")[1])


def test_what_is_read_at_once_is_not_let_in_at_once(service: Running) -> None:
    connections = [connect(service) for _ in range(60)]
    for connection in connections:
        connection.sendall(post())
        assert read_status(connection) == 200
    os.kill(service.process.pid, signal.SIGSTOP)
    for connection in connections:
        connection.sendall(post())
    os.kill(service.process.pid, signal.SIGCONT)

    statuses = [read_status(connection) for connection in connections]

    for connection in connections:
        connection.close()
    assert set(statuses) == {200, 503}
    assert LIMIT <= statuses.count(200) <= 4 * LIMIT  # few turns of the loop, of which each lets LIMIT in


@pytest.mark.parametrize("n_pieces", [1, 2, 3])
def test_refused_connection_goes_on_in_any_pieces(full: Running, n_pieces: int) -> None:
    connection = connect(full)
    size = -(-len(post()) // n_pieces)

    for _ in range(3):
        for start in range(0, len(post()), size):
            connection.sendall(post()[start : start + size])
            assert full.client.get("/livez").status_code == 200  # by now the loop has read the piece
        assert read_status(connection) == 503
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")

    assert read_status(connection) == 200
    connection.close()


def test_refusal_ends_a_connection_that_asked_for_it(full: Running) -> None:
    connection = connect(full)

    connection.sendall(post("/recommend", "Connection: close"))

    assert read_status(connection) == 503
    assert connection.recv(1) == b""
    connection.close()


def test_places_are_free_again_when_callers_hang_up(service: Running, full: Running) -> None:
    refused = service.metric("retort_shed_total", reason="concurrency")
    connection = connect(service)
    connection.sendall(post())

    assert read_status(connection) == 503
    assert service.metric("retort_shed_total", reason="concurrency") == refused + 1
    connection.close()


def test_pipelined_requests_are_answered_in_order_and_counted_out(service: Running) -> None:
    connection = connect(service)

    connection.sendall(post() * 3)

    assert read_pipelined(connection) == [200, 200, 200]
    connection.close()
    assert wait_for(lambda: service.metric("retort_http_requests_in_flight") == 1)


def read_pipelined(connection: socket.socket) -> list[int]:
    reply = b""
    while reply.count(b'"took_ms"') < 3:
        reply += connection.recv(65536)
    return [int(part[:3]) for part in reply.split(b"HTTP/1.1 ")[1:]]
