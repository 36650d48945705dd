"""Tracing of a running service, as a real collector on a socket sees it."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.port import free_port
from tests.service.running import ADMIN_KEY, KEY, Running, clean_environment, wait_for
from tests.service.tracing.collector import Receiver, collecting, values
from tests.service.tracing.test_context import MALFORMED, SOUND, SPAN, TRACE

RANKED = ["encode", "score", "rules"]
SECRET_USER, SECRET_ITEM = "user-whom-nobody-names", "i7"


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    with collecting() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def service(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory, collector: Receiver) -> Iterator[Running]:
    """A service that records everything, and sends it soon."""
    data, keys = tmp_path_factory.mktemp("data"), {"api_keys": KEY, "admin_key": ADMIN_KEY}
    with soon(), Running(toy_bundle, data, otlp_endpoint=collector.url, trace_share="1", **keys) as running:
        running.client.headers["X-API-Key"] = KEY
        yield running


@contextmanager
def soon() -> Iterator[None]:
    """Let the services that are started inside send what they have recorded without waiting for more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield


def trace(service: Running, collector: Receiver, path: str, body: Any) -> Any:
    """POST a body; return the root of its trace. What was recorded before it has arrived then, too."""
    trace_id = f"{random.getrandbits(128):032x}"
    response = service.client.post(path, json=body, headers={"traceparent": f"00-{trace_id}-{SPAN}-01"})
    assert response.status_code == 200, response.text
    (root,) = wait_for(lambda: [root for root in collector.roots() if root.trace_id.hex() == trace_id])
    return root


def settled(service: Running, collector: Receiver) -> list[Any]:
    """Return the roots of all traces that were begun before."""
    trace(service, collector, "/recommend", {"history": []})
    return collector.roots()


def test_a_request_is_a_span_with_its_stages(service: Running, collector: Receiver) -> None:
    root = trace(service, collector, "/recommend", {"history": ["i1", "i2"], "k": 3})

    assert collector.tree(root) == ("POST /recommend", ["parse", "queue", *RANKED, "serialize"])
    assert root.parent_span_id.hex() == SPAN
    said = values(root.attributes)
    version = said.pop("retort.model_version")
    assert version == service.recommend(history=["i1"])["model_version"]
    assert said == {
        "http.request.method": "POST", "http.route": "/recommend", "http.response.status_code": 200,
        "retort.level": "full",
    }  # fmt: skip


def test_stages_lie_inside_their_request_and_are_of_now(service: Running, collector: Receiver) -> None:
    before = time.time_ns()
    root = trace(service, collector, "/recommend", {"user_id": "someone", "k": 3})

    parts = [span for span in collector.spans if span.trace_id == root.trace_id]
    slack_ns = 50_000_000  # two clocks
    assert before - slack_ns <= root.start_time_unix_nano <= root.end_time_unix_nano <= time.time_ns() + slack_ns
    for part in parts:
        assert root.start_time_unix_nano <= part.start_time_unix_nano <= part.end_time_unix_nano
        assert part.end_time_unix_nano <= root.end_time_unix_nano


def test_a_user_is_looked_up_in_the_store(service: Running, collector: Receiver) -> None:
    service.send({"user_id": "reader", "item_id": "i1"})

    root = trace(service, collector, "/recommend", {"user_id": "reader", "k": 3})

    assert collector.tree(root) == ("POST /recommend", ["parse", "queue", "store", *RANKED, "serialize"])


def test_other_ways_to_ask_have_their_stages_too(service: Running, collector: Receiver) -> None:
    similar = trace(service, collector, "/similar", {"item_id": "i1", "k": 3})
    written = trace(service, collector, "/events", {"events": [{"user_id": "writer", "item_id": "i1"}]})
    ruled = {"history": ["i1"], "k": 3, "offset": 2, "explain": True}

    assert collector.tree(similar) == ("POST /similar", ["parse", "queue", *RANKED, "serialize"])
    assert collector.tree(written) == ("POST /events", ["write"])
    explained = collector.tree(trace(service, collector, "/recommend", ruled))
    assert explained[1] == ["parse", "queue", *RANKED, "shape", "explain", "serialize"]


def test_lists_of_a_batch_are_parts_with_their_own_stages(service: Running, collector: Receiver) -> None:
    body = {"requests": [{"history": ["i1"]}, {"history": ["i2"]}, {"k": "wrong"}, {"history": []}]}

    root = trace(service, collector, "/recommend/batch", body)

    name, parts = collector.tree(root)
    stages = ["queue", *RANKED, "serialize"]
    assert name == "POST /recommend/batch"
    assert parts == [("answer", stages), ("answer", stages), ("answer", ["queue", "rules", "serialize"])]
    encoded = [span for span in collector.spans if span.trace_id == root.trace_id and span.name == "encode"]
    assert [values(span.attributes) for span in encoded] == [{"batch": 2}, {"batch": 2}]


def test_slots_of_a_page_are_parts_and_the_store_is_asked_once(service: Running, collector: Receiver) -> None:
    service.send({"user_id": "visitor", "item_id": "i1"})
    body = {"user_id": "visitor", "slots": [{"name": "top"}, {"name": "more", "similar_to": "i2"}]}

    name, parts = collector.tree(trace(service, collector, "/page", body))

    assert name == "POST /page"
    assert [part[0] for part in parts[:2]] == ["slot", "slot"] and parts[2:] == ["serialize"]
    assert [part[1].count("store") for part in parts[:2]] == [1, 0]
    assert all("score" in part[1] for part in parts[:2])


def test_the_callers_trace_is_continued_and_logged(service: Running, collector: Receiver) -> None:
    service.client.post("/recommend", json={"history": ["i1"]}, headers={"traceparent": SOUND})

    (root,) = [root for root in settled(service, collector) if root.trace_id.hex() == TRACE]
    assert root.parent_span_id.hex() == SPAN
    assert {span.trace_id.hex() for span in collector.spans if span.parent_span_id == root.span_id} == {TRACE}
    assert wait_for(lambda: [line for line in service.log_lines() if line.get("trace_id") == TRACE])


@pytest.mark.parametrize("path", ["/recommend", "/recommend/batch"])
def test_malformed_and_doubled_headers_begin_a_trace_of_their_own(
    path: str, service: Running, collector: Receiver
) -> None:
    one = {"history": ["i1"]}
    body = {"requests": [one]} if path.endswith("batch") else one
    texts = [text for text in MALFORMED if text.isprintable()]
    before = len(settled(service, collector))

    for headers in [[("traceparent", text)] for text in texts] + [[("traceparent", SOUND), ("Traceparent", SOUND)]]:
        assert service.client.post(path, json=body, headers=headers).status_code == 200

    roots = settled(service, collector)[before:-1]
    assert len(roots) == len(texts) + 1
    assert not any(root.parent_span_id for root in roots)
    assert len({root.trace_id for root in roots} - {bytes.fromhex(TRACE)}) == len(texts) + 1


def test_refusals_inside_are_recorded_and_those_of_the_guard_and_probes_are_not(
    service: Running, collector: Receiver
) -> None:
    before = len(settled(service, collector))

    for path in ("/livez", "/readyz", "/metrics"):
        assert service.client.get(path).status_code == 200
    wrong = service.client.post("/recommend", json={}, headers={"X-API-Key": "wrong", "traceparent": SOUND})
    assert wrong.status_code == 403
    assert service.client.post("/recommend", json={"k": "many"}).status_code == 422
    assert service.client.get(f"/users/{SECRET_USER}").status_code == 200
    assert service.client.get(f"/nothing/{SECRET_USER}").status_code == 404

    roots = settled(service, collector)[before:-1]
    assert len(roots) == 3
    seen = {(root.name, values(root.attributes)["http.response.status_code"]) for root in roots}
    assert seen == {("POST /recommend", 422), ("GET /users/{user_id}", 200), ("GET", 404)}


def test_no_user_no_item_and_no_key_leaves(service: Running, collector: Receiver) -> None:
    service.send({"user_id": SECRET_USER, "item_id": SECRET_ITEM})
    lists = {"history": [SECRET_ITEM], "filter": {}, "exclude": [SECRET_ITEM], "explain": True}
    trace(service, collector, "/recommend", {"user_id": SECRET_USER})
    trace(service, collector, "/recommend", lists)
    trace(service, collector, "/page", {"user_id": SECRET_USER, "slots": [{"name": "secret-slot"}]})
    trace(service, collector, "/recommend/batch", {"requests": [{"user_id": SECRET_USER}]})

    sent = repr([(span.name, values(span.attributes)) for span in collector.spans]) + repr(collector.resources)
    for secret in (SECRET_USER, SECRET_ITEM, KEY, ADMIN_KEY, "secret-slot"):
        assert secret not in sent
    assert not any(span.trace_state or span.events or span.links for span in collector.spans)


def test_spans_of_four_workers_and_a_share_of_all(
    toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-collector-key=abc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    n, share, options = 600, 0.15, {"trace_share": "0.15", "log_requests": "0"}
    with collecting() as receiver:
        with Running(toy_bundle, tmp_path, "--workers", "4", otlp_endpoint=receiver.url, **options) as running:

            def ask(n_asked: int) -> list[int]:
                with httpx.Client(base_url=running.url, trust_env=False) as client:
                    return [client.post("/recommend", json={"history": ["i1"]}).status_code for _ in range(n_asked)]

            with ThreadPoolExecutor(12) as pool:
                statuses = [each for each in pool.map(ask, [50] * (n // 50)) for each in each]
        roots = receiver.roots()

    assert statuses == [200] * n
    assert abs(len(roots) - n * share) <= 6 * (n * share * (1 - share)) ** 0.5
    assert len({root.trace_id for root in roots}) == len(roots)
    assert len({resource["service.instance.id"] for resource in receiver.resources}) > 1
    assert {resource["service.name"] for resource in receiver.resources} == {"shop"}
    assert {resource["deployment.environment.name"] for resource in receiver.resources} == {"test"}
    assert {headers["x-collector-key"] for headers in receiver.headers} == {"abc"}
    assert {headers["Content-Encoding"] for headers in receiver.headers} == {"gzip"}
    assert set(receiver.paths) == {"/v1/traces"}


@pytest.mark.parametrize("trouble", ["gone", "hanging", "refusing"])
def test_a_collector_in_trouble_costs_no_answer_and_is_counted(trouble: str, toy_bundle: Path, tmp_path: Path) -> None:
    with collecting() as receiver:
        url = receiver.url
        if trouble == "gone":
            url = f"http://127.0.0.1:{free_port()}"
        elif trouble == "hanging":
            receiver.is_open.clear()
        else:
            receiver.status = 400
        with soon(), Running(toy_bundle, tmp_path, otlp_endpoint=url, trace_share="1") as running:
            batch = {"requests": [{"history": ["i1"], "budget_ms": 1000}] * 100}  # 601 spans
            bodies = [running.client.post("/recommend/batch", json=batch).json() for _ in range(8)]
            if trouble == "refusing":
                assert wait_for(lambda: running.metric("retort_trace_spans_total", result="failed"))
                assert wait_for(lambda: [line for line in running.log_lines() if line["event"] == "traces_not_sent"])
            else:
                assert wait_for(lambda: running.metric("retort_trace_spans_total", result="dropped"))
            assert running.metric("retort_trace_spans_total", result="sent") == 0
            running.process.terminate()
            assert running.process.wait(15) == 0

    assert {answer["quality"]["level"] for body in bodies for answer in body["answers"]} == {"full"}


def test_what_waits_is_sent_at_the_end(toy_bundle: Path, tmp_path: Path) -> None:
    with collecting() as receiver:
        with Running(toy_bundle, tmp_path, otlp_endpoint=receiver.url, trace_share="1") as running:
            for _ in range(30):
                running.recommend(history=["i1"])

        assert len(receiver.roots()) == 30


def script(source: str, bundle: Path, data: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a Python script that serves nothing itself."""
    environment = clean_environment({"bundle": str(bundle), "data_dir": str(data), "port": "0", **settings})
    return subprocess.run(
        [sys.executable, "-c", source], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_missing_extra_ends_the_start_with_the_line_that_installs_it(toy_bundle: Path, tmp_path: Path) -> None:
    source = (
        "import sys; sys.modules['opentelemetry.exporter'] = None\n"
        "from service.__main__ import main\n"
        "sys.argv = ['retort', 'serve']; sys.exit(main())"
    )

    done = script(source, toy_bundle, tmp_path, otlp_endpoint="http://127.0.0.1:9")

    assert done.returncode == 2
    assert "pip install 'retort[tracing]'" in done.stderr and "RETORT_OTLP_ENDPOINT" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_is_imported_and_no_thread_runs_without_a_collector(toy_bundle: Path, tmp_path: Path) -> None:
    source = (
        "import asyncio, sys, threading\n"
        "from service.app import open_service\n"
        "from service.logs import Log\n"
        "from service.settings import read_settings\n"
        "async def main():\n"
        "    async with open_service(read_settings(), Log('error')):\n"
        "        heads = ('opentelemetry.sdk.trace', 'opentelemetry.exporter', 'service.tracing.otlp')\n"
        "        print([name for name in sys.modules if name.startswith(heads)],\n"
        "              [thread.name for thread in threading.enumerate() if thread.name == 'tracing'])\n"
        "asyncio.run(main())"
    )

    done = script(source, toy_bundle, tmp_path, trace_share="1")

    assert (done.returncode, done.stdout) == (0, "[] []\n"), done.stderr
