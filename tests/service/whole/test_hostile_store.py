"""A store that answers nonsense: no caller sees an error of ours, and no reply fills the memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.hostile import REPLIES, Hostile
from tests.service.running import Running, wait_for

BULK = 200 << 20
SOME = (
    "integer", "integer too large", "null array", "empty array", "text", "odd array", "pair without a score",
    "too many integers", "nested", "entries", "map with a list as key", "push", "not text", "claims two milliards",
)  # fmt: skip


@pytest.fixture(scope="module")
def hostile() -> Iterator[Hostile]:
    with Hostile() as server:
        yield server


@pytest.fixture(scope="module")
def service(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory, hostile: Hostile) -> Iterator[Running]:
    with Running(
        toy_bundle, tmp_path_factory.mktemp("data"), redis_url=f"redis://127.0.0.1:{hostile.port}", budget_ms="50"
    ) as running:
        yield running


def let_it_ask(service: Running) -> None:
    """Wait until the breaker, which earlier nonsense has opened, lets the store be asked."""
    assert wait_for(lambda: service.client.get("/readyz").json()["store"]["is_up"])


@pytest.mark.parametrize("name", SOME)
def test_no_route_answers_500_whatever_the_store_says(service: Running, hostile: Hostile, name: str) -> None:
    hostile.reply, hostile.tail_bytes = REPLIES[name], 0
    event = {"user_id": "u1", "item_id": "i1", "timestamp": 1_700_000_000}
    statuses = set()

    for _ in range(4):
        for user in ("u1", "u2"):
            statuses.add(
                service.client.post("/recommend", json={"user_id": user, "k": 3, "budget_ms": 500}).status_code
            )
        written = service.client.post("/events", json={"events": [event, event | {"item_id": "i2"}]})
        read, erased = service.client.get("/users/u1"), service.client.delete("/users/u1")
        assert (written.status_code, read.status_code) == (503, 503) or name in ("empty array",), (name, read.text)
        for answer in (written, read, erased):
            assert answer.status_code in (200, 503), (name, answer.status_code, answer.text)
            if answer.status_code == 503:
                assert answer.json()["error"]["code"] == "store_unavailable"

    assert statuses == {200}
    assert service.client.get("/readyz").status_code == 200


def test_nonsense_is_counted_and_opens_the_breaker(service: Running, hostile: Hostile) -> None:
    hostile.reply = b"*1\r\n*0\r\n"
    let_it_ask(service)
    opened = service.metric("retort_store_errors_total", kind="decode")

    for number in range(20):
        service.ask(user_id=f"n{number}", k=1)

    assert service.metric("retort_store_errors_total", kind="decode") > opened
    reasons = [service.ask(user_id=f"m{number}", k=1)["quality"]["reasons"] for number in range(8)]
    assert ["breaker_open"] in reasons
    assert [line for line in service.log_lines() if line["event"] == "store_breaker_open"]


@pytest.mark.parametrize("head", [b"$%d\r\n" % BULK, b"*9\r\n" * 3 + b"$%d\r\n" % BULK, b"+", b"*1\r\n:"])
def test_reply_that_does_not_end_is_not_read_whole(service: Running, hostile: Hostile, head: bytes) -> None:
    before = service.metric("retort_resident_memory_bytes")
    hostile.reply, hostile.tail_bytes, hostile.n_sent = head, BULK, 0
    let_it_ask(service)
    most = 0.0

    for number in range(6):
        for call in (
            lambda number=number: service.client.post("/recommend", json={"user_id": f"b{number}", "budget_ms": 1000}),
            lambda: service.client.post("/events", json={"events": [{"user_id": "u", "item_id": "i1"}]}),
            lambda: service.client.get("/users/u"),
        ):
            answer = call()
            assert answer.status_code in (200, 503)
            most = max(most, service.metric("retort_resident_memory_bytes"))
    hostile.reply, hostile.tail_bytes = b"+OK\r\n", 0

    assert most < before + (48 << 20)
    assert hostile.n_sent > 0


def test_service_is_whole_again_once_the_store_is(service: Running, hostile: Hostile) -> None:
    hostile.reply, hostile.tail_bytes = b"*0\r\n", 0

    let_it_ask(service)

    wait_for(lambda: service.client.get("/readyz").json()["store"]["breaker"] == "closed")
    wait_for(lambda: service.ask(user_id="u1", budget_ms=1000)["quality"]["reasons"] != ["breaker_open"])
