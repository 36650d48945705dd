"""The collector's side: how long spans wait for others, and what becomes of a request's tree."""

import pytest

from service.errors import StartError
from service.tracing.otlp import Collector
from service.tracing.span import RequestSpan
from tests.service.tracing.collector import collecting, values


@pytest.mark.parametrize(("text", "expected"), [(None, 5.0), ("", 5.0), (" 250 ", 0.25), ("0", 0.0)])
def test_the_standards_variable_says_how_long_spans_wait(
    text: str | None, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_BSP_SCHEDULE_DELAY", raising=False)
    if text is not None:
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", text)

    assert Collector("http://127.0.0.1:9/v1/traces", "0").delay_s == expected


@pytest.mark.parametrize("text", ["soon", "-1", "1.5", "99999999", "٣"])
def test_a_delay_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", text)

    with pytest.raises(StartError, match="OTEL_BSP_SCHEDULE_DELAY"):
        _ = Collector("http://127.0.0.1:9/v1/traces", "0").delay_s


def test_requests_sent_together_keep_their_own_traces_and_times() -> None:
    requests = [RequestSpan("GET /model", 10.0 + n, 10.5 + n, trace_id=n + 1, parent_id=9 * n) for n in range(3)]
    for request in requests:
        request.add("write", request.start + 0.1, request.start + 0.2, batch=2)
    requests[1].attributes["http.response.status_code"] = 503

    with collecting() as receiver:
        assert Collector(f"{receiver.url}/v1/traces", "1.2").send(requests)

    assert sorted(root.trace_id.hex() for root in receiver.roots()) == [f"{n:032x}" for n in (1, 2, 3)]
    for n, root in enumerate(sorted(receiver.roots(), key=lambda root: root.trace_id)):
        assert root.parent_span_id.hex() == (f"{9 * n:016x}" if n else "")
        assert root.end_time_unix_nano - root.start_time_unix_nano == pytest.approx(5e8, abs=1000)
        (part,) = [span for span in receiver.spans if span.parent_span_id == root.span_id]
        assert part.trace_id == root.trace_id and values(part.attributes) == {"batch": 2}
        assert root.status.code == (2 if n == 1 else 0)
    assert receiver.resources[0]["service.version"] == "1.2"


def test_what_nobody_takes_is_not_sent() -> None:
    with collecting() as receiver:
        receiver.status = 400

        assert not Collector(f"{receiver.url}/v1/traces", "0").send([RequestSpan("GET /model", 1.0, 2.0, trace_id=1)])
