"""The tracer: who is recorded, and where a collector is looked for."""

import pytest

from service.errors import StartError
from service.settings import read_settings
from service.tracing.outbox import Outbox
from service.tracing.tracer import Tracer, traces_url
from tests.service.tracing.test_context import MALFORMED, SOUND

ADDRESSES = ["http://localhost:4318", "https://collector.example", "http://[::1]:4318/", "http://127.0.0.1:1/a/b"]
NO_ADDRESSES = [
    "localhost:4318", "collector", "grpc://localhost:4317", "http://", "http://:4318", "http://host:0", "http://host:70000",
    "http://host:port", "http://a b:4318", "http://user:secret@host:4318", "http://host:4318?key=secret",
    "http://host:4318/#secret", "http://[::1", "http://host\n:4318", "ftp://host",
]  # fmt: skip


@pytest.fixture
def outbox() -> Outbox:
    return Outbox(lambda spans: True, lambda result, n_spans: None, 1.0)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("header", [None, *MALFORMED[:4]])
def test_a_share_of_requests_without_a_sound_header_is_recorded(
    share: float, header: str | None, outbox: Outbox
) -> None:
    tracer, n = Tracer(share, outbox), 20_000
    headers = [] if header is None else [(b"traceparent", header.encode())]

    found = [span for _ in range(n) if (span := tracer.begin(headers, 1.0)) is not None]

    assert abs(len(found) - share * n) <= 6 * (n * share * (1 - share)) ** 0.5
    assert all(span.parent_id == 0 and span.trace_id for span in found)
    assert len({span.trace_id for span in found}) == len(found)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_caller_decides_where_it_says_something(share: float, outbox: Outbox) -> None:
    tracer = Tracer(share, outbox)

    span = tracer.begin([(b"traceparent", SOUND.encode())], 1.0)

    assert span is not None and (f"{span.trace_id:032x}", f"{span.parent_id:016x}") == (SOUND[3:35], SOUND[36:52])
    assert tracer.begin([(b"traceparent", SOUND[:-1].encode() + b"0")], 1.0) is None


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://localhost:4318", "http://localhost:4318/v1/traces"),
        ("http://localhost:4318/", "http://localhost:4318/v1/traces"),
        ("https://host/otlp", "https://host/otlp/v1/traces"),
        ("https://host/v1/traces", "https://host/v1/traces"),
        ("https://host/v1/traces/", "https://host/v1/traces"),
    ],
)
def test_traces_go_below_the_endpoint(endpoint: str, expected: str) -> None:
    assert traces_url(endpoint) == expected


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_of_a_collector_is_taken(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETORT_OTLP_ENDPOINT", address)

    assert read_settings().otlp_endpoint == address


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_another_address_is_refused_and_not_quoted(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETORT_OTLP_ENDPOINT", address)

    with pytest.raises(StartError, match="RETORT_OTLP_ENDPOINT") as caught:
        read_settings()

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("share", ["-0.1", "1.1", "nan", "a tenth"])
def test_a_share_that_is_none_is_refused(share: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETORT_TRACE_SHARE", share)

    with pytest.raises(StartError, match="RETORT_TRACE_SHARE"):
        read_settings()
