"""Requests over raw sockets: answered and refused alike, whatever pieces they come in."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httptools
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.store.embedded import socket_path
from service.wire.crowd import Crowd
from service.wire.reply import RawHeaders, Reply, send_reply, write_reply
from service.wire.server import Server, ServerRule, address_of, bind, loop_factory
from service.wire.trace import Trace
from service.wire.whole_post import read_post
from tests.service.running import Proxy, Running, wait_for

BODY = b'{"history": ["i1"]}'
LIMIT = 4


def post(path: str = "/recommend", *headers: str, body: bytes = BODY) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


@pytest.mark.parametrize("path", ["/recommend", "/recommend?x=1", "/events"])
def test_one_whole_post_is_known_as_such(path: str) -> None:
    found = read_post(post(path, "Connection: keep-alive", "X-API-Key: a b"))

    assert found is not None
    assert (found.url, found.body) == (path.encode(), BODY)
    assert found.headers == {
        b"host": b"localhost", b"content-type": b"application/json", b"content-length": b"19",
        b"connection": b"keep-alive", b"x-api-key": b"a b",
    }  # fmt: skip


@pytest.mark.parametrize(
    "request_",
    [
        post()[:-1], post() + b"P", post()[:40], b"", b"\r\n\r\n", post() * 2,
        post().replace(b"POST", b"GET"), post().replace(b"1.1", b"1.0"), post(" /recommend"),
        post("/recommend", "Connection: close"), post("/recommend", "Transfer-Encoding: chunked"),
        post("/recommend", "expect: 100-continue"), post().replace(b"Content-Length", b"X-Length"),
        post().replace(b"Content-Length: ", b"Content-Length: -"), post("/recommend", "Upgrade: h2c"),
        post("/recommend", "Upgrade : h2c"), post("/recommend", "content-length: 19"), post("/recommend", " folded: 1"),
        post("/recommend", "X:"), post("/recommend", "X: \x00"), post("/recommend", "X: ü"),
        post().replace(b"\r\n", b"\n"), post().replace(b": 19", b": " + b"9" * 5000), post("/\xff"),
    ],
)  # fmt: skip
def test_anything_else_is_left_to_the_parser(request_: bytes) -> None:
    assert read_post(request_) is None


class Parsed:
    """What httptools makes of the same bytes."""

    def __init__(self, data: bytes) -> None:
        self.url, self.body, self.n_complete, self.is_to_stay = b"", b"", 0, False
        self.headers: list[tuple[bytes, bytes]] = []
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_headers_complete(self) -> None:
        self.is_to_stay = self.parser.should_keep_alive()  # later it says that of the next request

    def on_message_complete(self) -> None:
        self.n_complete += 1


ODD = st.sampled_from(list(' \t\r\n:;,/?%#\x00\x7fAa0_-ü"()'))
LINES = st.one_of(
    st.sampled_from(
        [
            "Connection: keep-alive",
            "connection:close",
            "X-A:1",
            "x_b:  2 ",
            "X-C: 3 ",
            "Content-Length: 19",
            "C:\t3",
            "Proxy-Connection: close",
            "Keep-Alive: timeout=1",
        ]
    ),
    st.builds("{}: {}".format, st.text(ODD, max_size=4), st.text(ODD, max_size=6)),
)


@settings(max_examples=500, deadline=None)
@given(lines=st.lists(LINES, max_size=4), path=st.text(ODD, max_size=4), at=st.integers(0, 400), odd=ODD)
def test_what_is_taken_for_a_whole_post_is_one_to_the_parser(lines: list[str], path: str, at: int, odd: str) -> None:
    whole = post("/" + path, *lines)
    for data in (whole, whole[:at] + odd.encode() + whole[at:]):
        found = read_post(data)
        if found is None:
            continue

        parsed = Parsed(data)

        assert (parsed.n_complete, parsed.parser.get_method(), parsed.parser.get_http_version()) == (1, b"POST", "1.1")
        assert (parsed.url, parsed.body, parsed.headers) == (found.url, found.body, list(found.headers.items()))
        assert parsed.is_to_stay
        assert not parsed.parser.should_upgrade()


@pytest.fixture(scope="module")
def service(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(toy_bundle, tmp_path_factory.mktemp("data"), max_in_flight=str(LIMIT)) as running:
        yield running


class Door:
    """An entrance that refuses everything but probes while it is full."""

    def __init__(self) -> None:
        self.is_full, self.n_malformed, self.seen = True, 0, []

    def refuse(self, path: str, method: str) -> bytes | None:
        """As Entrance says."""
        return write_reply(b"HTTP/1.1 503 Full\r\n", b"{}") if self.is_full and path != "/livez" else None

    def admit(self, scope: Any) -> None:
        """As Entrance says."""
        self.seen.append((scope["method"], scope["path"]))

    def enter(self, scope: Any) -> None:
        """As Entrance says."""

    def answer(self, headers: RawHeaders, client: Any, body: bytes, reply: Reply) -> Trace:
        """As Entrance says."""
        reply(200, b"[]", ())
        return Trace(0.0)

    def malformed(self, status: int) -> None:
        """As Entrance says."""
        self.n_malformed += 1

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer with the body that was sent."""
        body, more = b"", True
        while more and scope["path"] != "/early":
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await send_reply(send, 413 if scope["path"] == "/early" else 200, body or b"{}")


class Standing:
    """Our server around a door, in a thread of this process. url as that of a service."""

    def __init__(self, crowd: Crowd | None = None, keep_alive_s: int = 75) -> None:
        self.door, self.crowd = Door(), Crowd(1000) if crowd is None else crowd
        self.listener = bind("127.0.0.1", 0)
        self.listener.listen(100)
        self.url = str(address_of(self.listener)["url"])
        self._rule = ServerRule(drain_s=0.2, shutdown_s=2, keep_alive_s=keep_alive_s, root_path="/api")
        self._server = Server(self.door, self.crowd, lambda: None, self._rule)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(self._server._serve([self.listener]))

    def __enter__(self) -> "Standing":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)


@pytest.fixture(scope="module")
def full() -> Iterator[Standing]:
    """A server all of whose places are taken."""
    with Standing() as standing:
        yield standing


@pytest.fixture(scope="module")
def standing() -> Iterator[Standing]:
    """A server that answers everything with what it was sent."""
    with Standing() as standing:
        standing.door.is_full = False
        yield standing


def is_answering(service: "Running | Standing") -> bool:
    """Whether a probe over a connection of its own is answered."""
    with connect(service) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return read_status(connection) == 200


def connect(service: "Running | Standing") -> socket.socket:
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
def test_refused_connection_goes_on_in_any_pieces(full: Standing, n_pieces: int) -> None:
    connection = connect(full)
    size = -(-len(post()) // n_pieces)

    for _ in range(3):
        for start in range(0, len(post()), size):
            connection.sendall(post()[start : start + size])
            assert is_answering(full)  # by now the loop has read the piece
        assert read_status(connection) == 503
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert read_status(connection) == 200
    connection.close()


def test_refusal_ends_a_connection_that_asked_for_it(full: Standing) -> None:
    connection = connect(full)

    connection.sendall(post("/recommend", "Connection: close"))

    assert read_status(connection) == 503
    assert connection.recv(1) == b""
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


def read_answer(connection: socket.socket) -> tuple[bytes, set[bytes], dict[str, object]]:
    """Read one reply to its end: its status line, the names of its headers, its JSON."""
    reply = b""
    while b"\r\n\r\n" not in reply:
        reply += connection.recv(65536)
    head, _, body = reply.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    headers = dict(line.lower().split(b": ", 1) for line in lines)
    while len(body) < int(headers[b"content-length"]):
        body += connection.recv(65536)
    assert headers[b"content-type"] == b"application/json"
    return status, set(headers), orjson.loads(body)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (BODY, ["X-API-Key: one"]), (BODY, ["Authorization: Bearer one"]), (BODY, []), (BODY, ["X-API-Key: no"]),
        (b"{", ["X-API-Key: one"]), (b'{"history": ["i1"], "k": 0}', ["X-API-Key: one"]), (b"", ["X-API-Key: one"]),
        (b'{"user_id": "u", "filter": {}}', ["X-API-Key: one"]), (BODY, ["X-API-Key: two"]),
    ],
)  # fmt: skip
def test_request_in_one_piece_is_answered_as_one_in_two(guarded: Running, body: bytes, headers: list[str]) -> None:
    before = guarded.metric("retort_http_requests_total", route="/recommend")
    answers = []
    for size in (4096, 120):
        with connect(guarded) as connection:
            request = post("/recommend", *headers, body=body)
            for start in range(0, len(request), size):
                connection.sendall(request[start : start + size])
                guarded.client.get("/livez")
            answers.append(read_answer(connection))
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert read_status(connection) == 200
    (status, names, whole), (other_status, other_names, pieces) = answers

    assert (status, names) == (other_status, other_names)
    assert without_chance(whole) == without_chance(pieces)
    assert guarded.metric("retort_http_requests_total", route="/recommend") == before + 2
    assert wait_for(lambda: guarded.metric("retort_http_requests_in_flight") == 1)


def without_chance(answer: dict[str, object]) -> dict[str, object]:
    """An answer without what is another for each request."""
    return {name: value for name, value in answer.items() if name not in ("recommendation_id", "took_ms")}


@pytest.fixture(scope="module")
def guarded(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(toy_bundle, tmp_path_factory.mktemp("guarded"), api_keys="one,two") as running:
        running.client.headers["X-API-Key"] = "one"
        yield running


def test_rate_is_counted_alike(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path, rate_per_s="2") as service, connect(service) as connection:
        statuses = []
        for _ in range(6):
            connection.sendall(post())
            statuses.append(read_status(connection))

    assert statuses[:2] == [200, 200]
    assert 429 in statuses


@pytest.fixture
def slow(toy_bundle: Path, tmp_path: Path) -> Iterator[Running]:
    """A service whose store answers after a quarter of a second."""
    path = tmp_path / "p.sock"
    with (
        Running(toy_bundle, tmp_path / "data"),
        Proxy(path, socket_path(tmp_path / "data")) as proxy,
        Running(toy_bundle, tmp_path / "x", redis_url=f"unix://{path}") as running,
    ):
        proxy.delay_s = 0.25
        yield running


ASKS_STORE = b'{"user_id": "slow", "k": 3}'


def test_next_request_waits_for_the_answer_before_it(slow: Running) -> None:
    with connect(slow) as connection:
        connection.sendall(post(body=ASKS_STORE))
        wait_for(lambda: slow.metric("retort_http_requests_in_flight") == 2)
        connection.sendall(post() * 2)

        answers = [read_one(connection) for _ in range(3)]

        connection.sendall(post())
        assert read_status(connection) == 200
    assert [answer["user_id"] for answer in answers] == ["slow", None, None]
    assert wait_for(lambda: slow.metric("retort_http_requests_in_flight") == 1)


def read_one(connection: socket.socket) -> dict[str, object]:
    """Read one reply, and nothing of the next."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return orjson.loads(body)


def test_whole_request_in_progress_at_sigterm_is_answered(slow: Running) -> None:
    with connect(slow) as connection:
        connection.sendall(post(body=ASKS_STORE))
        wait_for(lambda: slow.metric("retort_http_requests_in_flight") == 2)
        slow.process.send_signal(signal.SIGTERM)

        status, headers, answer = read_answer(connection)

        assert connection.recv(1) == b""
    assert (status, answer["user_id"]) == (b"HTTP/1.1 200 OK", "slow")
    assert b"connection" in headers
    assert slow.process.wait(10) == 0


def test_answer_for_nobody_is_counted_out(slow: Running) -> None:
    with connect(slow) as connection:
        connection.sendall(post(body=ASKS_STORE))
        wait_for(lambda: slow.metric("retort_http_requests_in_flight") == 2)

    assert wait_for(lambda: slow.metric("retort_http_requests_in_flight") == 1)
    assert slow.recommend(history=["i1"])["quality"]["level"] == "full"
    assert slow.log_lines()[-1]["severity"] == "info"
