"""The Python client: against a running service, and against one that fails in every way."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from service.client import (
    AsyncClient,
    Client,
    ClientError,
    DeadlineError,
    Event,
    EventsLostError,
    LostEvent,
    Options,
    PassingError,
    QueueFullError,
    Recommendation,
    RefusedError,
    UnreachableError,
    UnreadableError,
)
from service.client.retry import RetryBudget, backoff_s
from tests.port import free_port
from tests.service.client.scripted import ANSWER, STORED, Scripted, failure
from tests.service.running import ADMIN_KEY, Running

OK = (200, {}, ANSWER)
OK_EVENTS = (200, {}, STORED)
PATIENT_MS = 5000.0


def patient(url: str, **options: Any) -> Client:
    """A client for the tests that are not about the deadline, which a busy machine lets pass."""
    return Client(url, deadline_ms=PATIENT_MS, **options)


def generous(client: Client) -> Client:
    """A client that has saved up retries."""
    for _ in range(40):
        client._client._budget.earn()
    return client


def test_every_method_works_against_a_service(shared_service: Running) -> None:
    user = "a client/ünï 100%"
    with patient(shared_service.url) as client:
        stored = client.send_events([Event(user, "i7", "view", 1000), {"user_id": user, "item_id": "", "timestamp": 1}])
        answer = client.recommend(user, k=3, exclude=["i9", "gone"])
        inline = client.recommend(history=["i7"], k=3, exclude=["i9"])
        like = client.similar("i7", "gone", k=3, user_id=user)
        by_field = client.similar(item_id="i7", k=3, user_id=user)
        client.track(Event(user, "i8", "dislike", recommendation_id=answer.recommendation_id, position=1))
        client.flush()
        kept = client.user(user)
        hidden = client.recommend(user, k=60)
        model = client.model()
        erased = client.erase_user(user)

    assert (stored.accepted, stored.duplicates) == (1, 0)
    assert [(each.index, each.reason) for each in stored.rejected] == [(1, "invalid")]
    assert (len(answer.items), answer.quality.level, answer.ignored_ids) == (3, "full", ["gone"])
    assert answer.item_ids == inline.item_ids
    assert (len(like.items), like.user_id, like.ignored_ids) == (3, user, ["gone"])
    assert by_field.item_ids == like.item_ids
    assert [(event.item_id, event.type) for event in kept.history] == [("i7", "view")]
    assert [(event.item_id, event.type) for event in kept.hidden] == [("i8", "dislike")]
    assert "i8" not in hidden.item_ids
    assert model["version"] == answer.model_version
    assert (erased.user_id, erased.is_complete) == (user, True)
    assert client.counts.stored == 1 and client.counts.lost == 0


def test_items_are_put_changed_found_and_withdrawn(shared_service: Running) -> None:
    item_id = "an item/ünï 100%"
    with patient(shared_service.url) as client:
        state = client.put_item(item_id, title="Client lamp", numbers={"client_price": 5}, like=["i5"])
        client.patch_item(item_id, numbers={"client_price": 6})
        listed = client.put_items([{"item_id": f"{item_id}2", "title": "Client sofa"}, {"item_id": ""}])
        found = client.search_items("client", filter={"client_price": 6}, k=5)
        item = client.item(item_id)
        gone = [client.withdraw_item(each)["state"] for each in (item_id, f"{item_id}2")]
        with pytest.raises(RefusedError) as caught:
            client.item(item_id)

    assert (state["state"], state["from"]) == ("live", ["like"])
    assert (listed.accepted, [each.index for each in listed.rejected]) == (1, [1])
    assert [each["item_id"] for each in found] == [item_id]
    assert (item["title"], item["numbers"]) == ("Client lamp", {"client_price": 6})
    assert (gone, caught.value.code) == (["withdrawn", "withdrawn"], "not_found")


async def test_async_client_does_the_same(shared_service: Running) -> None:
    async with AsyncClient(shared_service.url, deadline_ms=PATIENT_MS) as client:
        answers = await asyncio.gather(*[client.recommend(history=[f"i{n}"], k=2) for n in range(20)])
        client.track(Event("async", "i1", "view"))
        await client.flush()
        kept = await client.user("async")

    assert {len(answer.items) for answer in answers} == {2}
    assert [event.item_id for event in kept.history] == ["i1"]


def test_many_lists_and_scenarios(shared_service: Running) -> None:
    name = "the client's/own %"
    with Client(shared_service.url, deadline_ms=2000) as client:
        put = client.put_scenario(name, k=4, exclude=["i9"])
        answers = client.batch(
            [{"history": ["i7"], "scenario": name}, {"history": [], "k": 0}, {"user_id": "u", "k": 2}]
        )
        alone = [client.recommend(history=["i7"], scenario=name, k=k) for k in (None, 2)]
        page = client.page(
            history=["i7", "gone"], slots=[{"name": "top", "k": 3}, {"name": "more", "scenario": name, "k": 2}]
        )
        names, read = client.scenarios(), client.scenario(name)
        client.delete_scenario(name)
        with pytest.raises(RefusedError) as caught:
            client.scenario(name)

    assert put == read
    assert (read.name, read.source, read.fields) == (name, "store", {"k": 4, "exclude": ["i9"]})
    assert names[name] == "store"
    assert caught.value.status == 404
    first, second, third = answers
    assert isinstance(first, Recommendation) and isinstance(third, Recommendation)
    assert (len(first.items), len(third.items)) == (4, 2)
    assert isinstance(second, RefusedError) and second.details[0]["field"] == "k"
    assert [each.item_ids for each in alone] == [first.item_ids, first.item_ids[:2]]
    assert list(page.slots) == ["top", "more"]
    assert page.slots["top"].item_ids == first.item_ids[:3]
    assert len({*page.slots["top"].item_ids, *page.slots["more"].item_ids}) == 5
    assert (page.ignored_ids, page.slots["more"].quality.level) == (["gone"], "full")


def test_deadline_is_sent_to_each_request_of_a_batch_and_to_a_page() -> None:
    with Scripted((200, {}, {"answers": []}), failure(503), (200, {}, {})) as server, Client(server.url) as client:
        client.batch([{"user_id": "u"}, {"user_id": "u", "budget_ms": 7}], deadline_ms=500)
        with pytest.raises(UnreadableError):
            generous(client).page("u", slots=[{"name": "a"}], deadline_ms=900)

    budgets = [request["budget_ms"] for request in server.asked[0][2]["requests"]]
    assert 400 <= budgets[0] <= 490 and budgets[1] == 7
    first, again = (asked[2]["budget_ms"] for asked in server.asked[1:])
    assert 900 > first > again > 100


def test_key_is_sent_and_a_wrong_one_is_told(keyed_service: Running) -> None:
    with patient(keyed_service.url, api_key=ADMIN_KEY) as client:
        assert client.recommend("u").items
    with patient(keyed_service.url) as client, pytest.raises(RefusedError) as caught:
        client.recommend("u")

    assert (caught.value.code, caught.value.status) == ("no_key", 401)


def test_refusal_carries_code_message_status_and_details(shared_service: Running) -> None:
    with patient(shared_service.url) as client, pytest.raises(RefusedError) as caught:
        client.recommend("u", k=0)

    assert (caught.value.code, caught.value.status) == ("malformed", 422)
    assert caught.value.message.startswith("k: ")
    assert caught.value.details[0]["field"] == "k"
    assert str(caught.value) == f"malformed: {caught.value.message}"


@pytest.mark.parametrize(
    ("reply", "kind", "code"),
    [
        (failure(503), PassingError, "overloaded"),
        (failure(429, "rate_limited", "1"), PassingError, "rate_limited"),
        (failure(422, "malformed"), RefusedError, "malformed"),
        (failure(500, "internal"), RefusedError, "internal"),
        ((502, {}, b"<html>"), PassingError, "unavailable"),
        ((404, {}, b"<html>"), UnreadableError, "unreadable"),
        ((200, {}, b"<html>"), UnreadableError, "unreadable"),
        ((200, {}, []), UnreadableError, "unreadable"),
        ((200, {}, {}), UnreadableError, "unreadable"),
        ((200, {}, {**ANSWER, "items": [{"item_id": "i1"}]}), UnreadableError, "unreadable"),
        ((200, {}, {**ANSWER, "quality": 7}), UnreadableError, "unreadable"),
        ((302, {"Location": "http://127.0.0.1:9/"}, b""), UnreadableError, "unreadable"),
        (None, UnreachableError, "unreachable"),
    ],
)
def test_each_failure_has_its_error(reply: Any, kind: type[ClientError], code: str) -> None:
    with Scripted(reply) as server, patient(server.url) as client, pytest.raises(ClientError) as caught:
        client.recommend("u")

    assert (type(caught.value), caught.value.code) == (kind, code)


def test_nobody_there_is_an_error_of_its_own() -> None:
    with patient(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(UnreachableError):
        client.recommend("u")


@pytest.mark.parametrize(
    ("deadline_ms", "least", "most"), [(500, 400, 490), (20, 10, 16), (5000, 1000, 1000), (1, 1, 1)]
)
def test_deadline_is_sent_as_the_budget_less_the_way(deadline_ms: float, least: int, most: int) -> None:
    with Scripted(OK) as server, Client(server.url) as client:
        client.recommend("warm", deadline_ms=5000)
        try:
            client.recommend("u", k=3, deadline_ms=deadline_ms, exclude=["i1"])
        except DeadlineError:
            assert deadline_ms < 50
            return

    body = server.bodies("/recommend")[-1]
    assert least <= body.pop("budget_ms") <= most
    assert body == {"k": 3, "user_id": "u", "exclude": ["i1"]}


def test_budget_that_the_caller_names_is_the_one_that_is_sent() -> None:
    with Scripted(OK, OK, (200, {}, {})) as server, Client(server.url) as client:
        client.recommend("u", deadline_ms=5000, budget_ms=7)
        client.similar("i1", deadline_ms=5000, budget_ms=8)
        with pytest.raises(UnreadableError):
            client.page("u", slots=[{"name": "a"}], deadline_ms=5000, budget_ms=9)

    assert [server.bodies(path)[0]["budget_ms"] for path in ("/recommend", "/similar", "/page")] == [7, 8, 9]


@pytest.mark.parametrize("name", [".", "..", "../recommend", "a.b", "%2E"])
def test_users_and_scenarios_of_odd_names_are_reached(shared_service: Running, name: str) -> None:
    with Client(shared_service.url) as client:
        client.send_events([Event(name, "i7", "view", 1000)])
        kept, erased, after = client.user(name), client.erase_user(name), client.user(name)
        put, read = client.put_scenario(name, k=3), client.scenario(name)
        client.delete_scenario(name)

    assert (kept.user_id, [event.item_id for event in kept.history]) == (name, ["i7"])
    assert (erased.user_id, erased.is_complete, after.history) == (name, True, [])
    assert (put.name, read) == (name, put)


@pytest.mark.parametrize("call", [lambda c: c.recommend("u", deadline_ms=80), lambda c: c.send_events([{}])])
def test_deadline_is_kept_when_nobody_answers(call: Callable[[Client], Any]) -> None:
    with Scripted("wait") as server, Client(server.url, timeout_s=0.08) as client:
        start = time.monotonic()
        with pytest.raises(DeadlineError):
            call(client)
        took_s = time.monotonic() - start

    assert 0.07 < took_s < 3.0
    assert client.counts.retries == 0


def test_answer_has_what_a_newer_service_adds() -> None:
    with Scripted(OK) as server, patient(server.url) as client:
        answer = client.recommend("u")

    assert (answer.raw["new_field"], answer.items[0].raw["title"]) == (7, "one")


def test_connection_is_used_again() -> None:
    with Scripted(OK) as server, patient(server.url) as client:
        for _ in range(20):
            client.recommend("u")

    assert len(server.peers) == 1


def test_failure_in_passing_is_tried_again_within_the_budget_and_the_deadline() -> None:
    with Scripted(failure(503), None, OK) as server, Client(server.url) as client:
        answer = generous(client).recommend("u", deadline_ms=3000)

    assert answer.item_ids == ["i1"]
    assert (client.counts.calls, client.counts.retries) == (1, 2)
    budgets = [body["budget_ms"] for body in server.bodies("/recommend")]
    assert budgets == sorted(budgets, reverse=True)


def test_retry_after_is_waited_for_and_never_beyond_the_deadline() -> None:
    with Scripted(failure(503, retry_after="1"), OK) as server, Client(server.url) as client:
        start = time.monotonic()
        with pytest.raises(PassingError) as caught:
            generous(client).recommend("u", deadline_ms=900)
        gave_up_s = time.monotonic() - start
        server.replies = [failure(503, retry_after="1"), OK]
        start = time.monotonic()
        client.recommend("u", deadline_ms=4000)
        waited_s = time.monotonic() - start

    assert gave_up_s < 0.9 and waited_s >= 1.0
    assert 1.0 <= caught.value.retry_after_s <= 1.1
    assert client.counts.retries == 1


def test_at_most_a_tenth_of_all_calls_is_made_again() -> None:
    with Scripted(failure(503)) as server, Client(server.url) as client:
        for _ in range(50):
            with pytest.raises(PassingError):
                client.recommend("u", deadline_ms=2000)

    assert client.counts.calls == 50
    assert client.counts.retries == len(server.asked) - 50 == 5


@pytest.mark.parametrize(
    ("events", "n_asked"),
    [
        ([{"user_id": "u", "item_id": "i", "event_id": "e"}], 2),
        ([{"user_id": "u", "item_id": "i", "timestamp": 0}], 2),
        ([{"user_id": "u", "item_id": "i"}], 1),
        ([{"user_id": "u", "item_id": "i", "event_id": "e"}, {"user_id": "u", "item_id": "i"}], 1),
    ],
)
def test_events_are_sent_again_only_if_that_cannot_store_them_twice(events: list[Any], n_asked: int) -> None:
    with Scripted(failure(503), OK_EVENTS) as server, Client(server.url) as client:
        generous(client)
        if n_asked == 2:
            client.send_events(events)
        else:
            with pytest.raises(PassingError):
                client.send_events(events)

    assert len(server.asked) == n_asked


def test_refusal_that_stays_is_not_tried_again() -> None:
    with (
        Scripted(failure(422, "malformed"), OK) as server,
        Client(server.url) as client,
        pytest.raises(RefusedError),
    ):
        generous(client).recommend("u")

    assert len(server.asked) == 1


def test_background_events_go_in_batches_stamped_and_all_of_them(shared_service: Running) -> None:
    before = shared_service.metric("retort_http_requests_total", route="/events")
    with Client(shared_service.url, options=Options(linger_s=0.2)) as client:
        start = time.time()
        for number in range(1200):
            client.track(Event(f"batch-{number % 7}", f"i{number % 50}", "view", event_id=f"e{number}"))
        client.flush()
        kept = client.user("batch-3").history

    assert client.counts.stored == 1200
    assert len(kept) == len(range(3, 1200, 7))
    assert start - 1 <= min(event.timestamp for event in kept) <= time.time()
    assert shared_service.metric("retort_http_requests_total", route="/events") - before <= 8


def test_leaving_the_client_sends_what_waits() -> None:
    stored = (200, {}, {"accepted": 3, "duplicates": 0, "rejected": []})
    with Scripted(stored) as server, Client(server.url, options=Options(linger_s=60)) as client:
        for number in range(3):
            client.track({"user_id": "u", "item_id": f"i{number}"})

    (body,) = server.bodies("/events")
    assert [event["item_id"] for event in body["events"]] == ["i0", "i1", "i2"]
    assert client.n_waiting == 0


def test_events_that_were_not_stored_are_raised_by_flush_once_with_the_events() -> None:
    with Scripted(failure(422, "malformed")) as server, Client(server.url) as client:
        client.track(Event("u", "i1", timestamp=5))
        with pytest.raises(EventsLostError) as caught:
            client.flush()
        client.flush()

    (lost,) = caught.value.lost
    assert lost.event == {"user_id": "u", "item_id": "i1", "timestamp": 5}
    assert (lost.error.code, client.counts.lost) == ("malformed", 1)


def test_single_event_that_the_service_rejects_is_told_and_the_others_are_stored(shared_service: Running) -> None:
    told: list[LostEvent] = []
    with Client(shared_service.url, on_lost=told.append) as client:
        client.track(Event("rejected", "i1"))
        client.track(Event("rejected", "i2", timestamp=time.time() + 10_000))
        client.track(Event("rejected", ""))
        client.flush()
        kept = client.user("rejected").history

    assert [event.item_id for event in kept] == ["i1"]
    assert [(lost.event["item_id"], lost.error.code) for lost in told] == [("i2", "future"), ("", "invalid")]
    assert (client.counts.stored, client.counts.lost) == (1, 2)


def test_callback_that_fails_hides_no_lost_event() -> None:
    def fail(lost: LostEvent) -> None:
        raise RuntimeError("a bug of the program")

    with Scripted(failure(422, "malformed")) as server, Client(server.url, on_lost=fail) as client:
        client.track(Event("u", "i1"))
        with pytest.raises(EventsLostError):
            client.flush()


def test_queue_is_bounded_and_says_so() -> None:
    with Scripted("wait") as server:
        client = Client(server.url, timeout_s=30, options=Options(max_queue=5))
        for number in range(5):
            client.track(Event("u", f"i{number}"))
        with pytest.raises(QueueFullError):
            client.track(Event("u", "i5"))
        with pytest.raises(DeadlineError, match="5 events"):
            client.flush(0.05)
        with pytest.raises(EventsLostError) as caught:
            client.close(0.05)

    assert len(caught.value.lost) == 5
    assert client.counts.lost == 5


def test_event_that_is_no_json_is_refused_where_it_is_tracked() -> None:
    with Scripted(OK_EVENTS) as server, Client(server.url) as client:
        for value in (float("nan"), object()):
            with pytest.raises((TypeError, ValueError)):
                client.track({"user_id": "u", "item_id": "i", "value": value})

    assert server.asked == []


def test_closed_client_refuses_and_closes_twice() -> None:
    with Scripted(OK) as server:
        client = Client(server.url)
        client.close()
        client.close()
        with pytest.raises(ClientError, match="closed"):
            client.recommend("u")
        with pytest.raises(ClientError, match="closed"):
            client.track(Event("u", "i"))


def test_one_client_serves_many_threads() -> None:
    found: list[list[str]] = []
    with Scripted(OK) as server, Client(server.url, deadline_ms=5000) as client:
        threads = [threading.Thread(target=lambda: found.append(client.recommend("u").item_ids)) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert found == [["i1"]] * 12


def test_process_that_ends_without_closing_sends_what_waits() -> None:
    program = (
        "import sys; from service.client import Client, Event, Options\n"
        "client = Client(sys.argv[1], options=Options(linger_s=60))\n"
        "client.track(Event('u', 'i1'))\n"
    )
    with Scripted(OK_EVENTS) as server:
        done = subprocess.run(
            [sys.executable, "-c", program, server.url], capture_output=True, text=True, timeout=30, check=False
        )

    assert (done.returncode, done.stderr) == (0, "")
    assert len(server.bodies("/events")) == 1


def test_client_needs_nothing_of_the_service() -> None:
    program = (
        "import sys, service.client\n"
        "print(*sorted({'fastapi', 'onnxruntime', 'redis', 'numpy', 'pydantic', 'torch', 'orjson'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)

    assert done.stdout.strip() == ""


def test_retry_budget_saves_up_to_its_bound() -> None:
    budget = RetryBudget(0.1, most=3)
    for _ in range(1000):
        budget.earn()

    assert [budget.spend() for _ in range(5)] == [True, True, True, False, False]
    assert all(0 < backoff_s(n) <= 1.0 for n in range(2000))
