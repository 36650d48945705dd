"""Callers who mean harm, or do not know better: what one connection sends costs little, and nobody else waits."""

import contextlib
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.wire.crowd import Crowd, most_connections
from service.wire.request_parser import HEAD_BYTES
from tests.service.running import Running, wait_for
from tests.service.wire.test_connection import Standing, connect, is_answering, post, read_status

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def standing() -> Iterator[Standing]:
    with Standing() as standing:
        standing.door.is_full = False
        yield standing


@pytest.fixture(scope="module")
def service(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(toy_bundle, tmp_path_factory.mktemp("attacked")) as running:
        yield running


def exchange(service: Running | Standing, data: bytes) -> bytes:
    """Send bytes, and return everything that comes until the connection ends or falls silent."""
    reply = b""
    with connect(service) as connection:
        connection.settimeout(1.0)
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while piece := connection.recv(65536):
                reply += piece
    return reply


@pytest.mark.parametrize(
    "upgrade",
    [
        ["Connection: Upgrade", "Upgrade: websocket"], ["Connection: keep-alive, Upgrade", "Upgrade: h2c"],
        ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"],
        ["connection: upgrade", "upgrade: foo", "Sec-WebSocket-Key: x"], ["Connection: Upgrade"], ["Upgrade: h2c"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("n_pieces", [1, 2, 9])
def test_body_of_a_request_that_asks_for_an_upgrade_is_its_body(
    standing: Standing, upgrade: list[str], n_pieces: int
) -> None:
    smuggled = b"DELETE /users/b HTTP/1.1\r\nHost: localhost\r\n\r\n"
    standing.door.seen.clear()
    request = post("/echo", *upgrade, body=smuggled)
    size = -(-len(request) // n_pieces)
    with connect(standing) as connection:
        for start in range(0, len(request), size):
            connection.sendall(request[start : start + size])
            assert is_answering(standing)
        reply = connection.recv(65536)

    assert reply.endswith(smuggled)
    assert reply.count(b"HTTP/1.1 ") == 1
    assert [path for _, path in standing.door.seen if path != "/livez"] == ["/echo"]


def test_curl_that_offers_http2_is_answered(service: Running) -> None:
    done = subprocess.run(
        ["curl", "-s", "--http2", f"{service.url}/recommend", "-H", "Content-Type: application/json", "-d",
         '{"user_id":"u1","k":2}'], capture_output=True, text=True, timeout=10, check=True,
    )  # fmt: skip

    assert '"user_id":"u1"' in done.stdout


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /livez HTTP/1.1\r\n\r\n", 400), (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400), (b"GET /livez HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"POST /e HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /e HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd", 400),
        (b"POST /e HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd", 400),
        (b"POST /e HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\nabcd", 200),
        (b"POST /e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST /e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 501),
        (b"POST /e HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", 400),
        (b"GET /livez HTTP/2.0\r\nHost: a\r\n\r\n", 505), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /livez HTTP/1.1\nHost: a\n\n", 400), (b"GET /livez HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400), (b"GET http://[::1 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400), (b"GET /livez HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", 400),
        (b"GET /" + b"a" * HEAD_BYTES + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * HEAD_BYTES + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 2 * HEAD_BYTES, 431),
    ],
)  # fmt: skip
def test_what_could_be_read_in_two_ways_is_refused_and_ends_the_connection(
    standing: Standing, head: bytes, status: int
) -> None:
    reply = exchange(standing, head)

    assert reply.startswith(b"HTTP/1.1 %d " % status)
    assert (b"connection: close" in reply) == (status != 200)
    assert reply.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "target", ["/%72ecommend", "http://anybody/recommend", "HTTP://a:1/recommend?x", "/api/recommend", "/recommend"]
)
def test_one_path_is_one_path_however_it_is_written(standing: Standing, target: str) -> None:
    standing.door.seen.clear()

    reply = exchange(standing, post(target, "X: y: z").replace(b"application/json", b"text/plain"))

    assert reply.startswith(b"HTTP/1.1 200")
    assert standing.door.seen == [("POST", "/recommend")]


@pytest.mark.parametrize("target", ["/%72ecommend", "http://a/recommend", "/api/recommend", "/recommend?x"])
def test_no_way_to_write_a_path_passes_its_limit(full: Standing, target: str) -> None:
    assert exchange(full, post(target)).startswith(b"HTTP/1.1 503")


@pytest.fixture(scope="module")
def full() -> Iterator[Standing]:
    with Standing() as standing:
        yield standing


def test_refusal_reaches_a_caller_who_is_still_sending(standing: Standing) -> None:
    for client in (httpx.Client(trust_env=False),):
        with client:
            answer = client.post(f"{standing.url}/early", content=b"x" * (8 << 20))
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"


def test_caller_who_sends_for_ever_is_not_read_for_ever(standing: Standing) -> None:
    sent = 0
    with connect(standing) as connection, pytest.raises((ConnectionError, TimeoutError)):
        connection.sendall(b"POST /early HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n\r\n")
        while sent < 1 << 30:
            sent += connection.send(b"x" * (1 << 20))

    assert sent < 1 << 28


def test_slow_head_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.wire.connection.HEAD_S", 0.3)
    with Standing() as standing, connect(standing) as connection:
        for piece in (b"GET /livez HT", b"TP/1.1\r\nHo"):
            connection.sendall(piece)
            is_answering(standing)

        assert read_status(connection) == 408
        assert connection.recv(1) == b""


def test_head_that_trickles_is_given_up_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.wire.connection.HEAD_S", 0.5)
    began = time.monotonic()
    with Standing() as standing, connect(standing) as connection:
        connection.settimeout(0.05)
        connection.sendall(b"GET /livez HTTP/1.1\r\nX: ")
        reply = b""
        while not reply and time.monotonic() - began < 10:
            connection.sendall(b"y")
            with contextlib.suppress(TimeoutError):
                reply = connection.recv(9999)

    assert reply.startswith(b"HTTP/1.1 408")
    assert time.monotonic() - began < 9


def test_connection_that_never_says_anything_is_idle() -> None:
    with Standing(keep_alive_s=1) as standing, connect(standing) as connection:
        assert connection.recv(1) == b""


def test_new_callers_are_let_in_for_idle_ones_and_slow_ones_the_longest_quiet_first() -> None:
    shed: list[int] = []
    with Standing(Crowd(4, lambda: shed.append(1))) as standing:
        standing.door.is_full = False
        slow, idle, body = connect(standing), connect(standing), connect(standing)
        slow.sendall(b"GET /livez HT")
        body.sendall(post("/echo")[:-1])
        wait_for(lambda: ("POST", "/echo") in standing.door.seen)
        new, statuses = [], []
        for _ in range(3):  # one after the other: of callers who have not asked yet, the first would give way
            new.append(connect(standing))
            new[-1].sendall(LIVEZ)
            statuses.append(read_status(new[-1]))
        idle.settimeout(5)

        assert statuses == [200, 200, 200]
        assert idle.recv(1) == b""  # it had not said anything
        assert shed
        body.sendall(post()[-1:])
        for connection in (slow, idle, body, *new):
            connection.close()


def test_requests_that_are_sent_ahead_stay_in_the_socket(service: Running) -> None:
    before = memory(service)
    crowd = [connect(service) for _ in range(40)]
    for connection in crowd:
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(40):
                connection.send(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n" * 9000)
    assert service.client.get("/livez").status_code == 200
    peak = memory(service)
    for connection in crowd:
        connection.close()

    assert peak < 1.5 * before


def test_heads_without_end_cost_no_memory(service: Running) -> None:
    before = memory(service)
    for line in (b"X: y\r\n" * 20000, b"X" * 120_000, b"X: " + b"y" * 120_000 + b"\r\n"):
        with connect(service) as connection, contextlib.suppress(ConnectionError, TimeoutError):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            for _ in range(200):
                connection.sendall(line)
    assert service.client.get("/livez").status_code == 200

    assert memory(service) < 1.5 * before


def memory(service: Running) -> int:
    """Resident memory in KiB."""
    text = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


def test_pipelined_requests_are_answered_in_order_whatever_they_are(standing: Standing) -> None:
    requests = b"".join(post(f"/echo{n}", body=b"%d" % n) for n in range(300))

    reply = exchange(standing, requests + LIVEZ)

    assert reply.count(b"HTTP/1.1 200") == 301
    bodies = [part.partition(b"\r\n\r\n")[2] for part in reply.split(b"HTTP/1.1 200 OK")[1:-1]]
    assert bodies == [b"%d" % n for n in range(300)]


def test_probes_are_answered_and_it_is_logged_where_files_are_few(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path, max_connections="32") as service:
        crowd = [connect(service) for _ in range(100)]

        statuses = [httpx.get(f"{service.url}/livez", trust_env=False).status_code for _ in range(10)]

        assert statuses == [200] * 10
        assert service.metric("retort_shed_total", reason="connections") >= 68
        assert service.metric("retort_connections") <= 32
        assert wait_for(lambda: any(line["event"] == "too_many_connections" for line in service.log_lines()))
        for connection in crowd:
            connection.close()


def test_cap_fits_the_limit_on_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        most = most_connections(500)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= most
        assert most == 500 or hard < 600
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_every_response_says_what_browsers_and_caches_must_know(service: Running) -> None:
    answers = [
        service.client.get("/livez"), service.client.get("/nothing"),
        service.client.post("/recommend", json={"user_id": "u"}), service.client.post("/recommend", json={}),
        service.client.post("/events", content=b"x"),
    ]  # fmt: skip

    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_head_answers_like_get_without_a_body(service: Running, path: str) -> None:
    head, get = service.client.head(path), service.client.get(path)

    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_slash_at_the_end_is_no_redirect(service: Running) -> None:
    for path in ("/recommend/", "/events/", "/model/"):
        assert service.client.post(path, json={"user_id": "u"}).status_code in (404, 405)


def test_compressed_body_is_refused_with_the_way_out(service: Running) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}

    for path in ("/recommend", "/events"):
        answer = service.client.post(path, content=b"\x1f\x8b", headers=headers)
        assert answer.status_code == 415
        assert "Content-Encoding" in answer.text


def test_prefix_of_a_proxy_is_cut_off(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path, root_path="/shop/rec") as service:
        codes = [
            service.client.post("/shop/rec/recommend", json={"user_id": "u"}).status_code,
            service.client.get("/shop/rec/users/a%2Fb").json()["user_id"],
            service.client.get("/livez").status_code,
            service.client.get("/shop/recommend").status_code,
        ]
        counted = service.metric("retort_http_requests_total", route="/recommend", code="200")

    assert codes == [200, "a/b", 200, 404]
    assert counted == 1
