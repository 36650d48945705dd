"""Which requests are recorded, and where they go: to nobody, unless there is a collector.

The caller's `traceparent` decides, where there is one; else a share of requests is drawn.
"""

import importlib
import random
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from service import __version__
from service.errors import StartError
from service.logs import Log
from service.metrics import Metrics
from service.tracing.context import find_context
from service.tracing.outbox import Outbox, Send
from service.tracing.span import RequestSpan

PATH = "/v1/traces"
_PRINTABLE = re.compile(r"[!-~]+")


class Tracer:
    """Begins and ends the spans of requests."""

    def __init__(self, share: float, outbox: Outbox) -> None:
        """share: of the requests that bring no trace of their own."""
        self._share, self._outbox = share, outbox

    def begin(self, headers: Iterable[tuple[bytes, bytes]], arrived: float) -> RequestSpan | None:
        """Return the span of a request that is recorded. arrived: in seconds of time.monotonic()."""
        context = find_context(headers)
        if context is None:
            is_sampled = random.random() < self._share  # noqa: S311
            return RequestSpan("", arrived, trace_id=random.getrandbits(128) or 1) if is_sampled else None
        if not context.is_sampled:
            return None
        return RequestSpan("", arrived, trace_id=context.trace_id, parent_id=context.parent_id)

    def end(self, span: RequestSpan, route: str | None, method: str, status: int, now: float) -> None:
        """Hand a request on that has ended. route: the template of its path, if it has one."""
        span.name, span.end = method if route is None else f"{method} {route}", now
        span.attributes |= {"http.request.method": method, "http.response.status_code": status}
        if route is not None:
            span.attributes["http.route"] = route
        self._outbox.put(span)


def check_endpoint(url: str) -> None:
    """Raises ValueError unless a collector can be asked for at this address."""
    try:
        parts = urlsplit(url)
        is_sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_sound = False
    if not is_sound or not _PRINTABLE.fullmatch(url):
        raise ValueError("give the address of an OTLP collector over HTTP, such as http://localhost:4318")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("only scheme, host, port and path; headers, keys too, are in OTEL_EXPORTER_OTLP_HEADERS")


def traces_url(endpoint: str) -> str:
    """Return where traces are sent: below the endpoint, as OTEL_EXPORTER_OTLP_ENDPOINT is read."""
    base = endpoint.rstrip("/")
    return base if base.endswith(PATH) else base + PATH


@asynccontextmanager
async def open_tracer(endpoint: str, share: float, metrics: Metrics, log: Log) -> AsyncIterator[Tracer | None]:
    """Open the tracer; None without an endpoint. Raises StartError where OpenTelemetry is not installed."""
    if not endpoint:
        yield None
        return
    try:
        otlp = importlib.import_module("service.tracing.otlp")
    except ImportError as exc:
        raise StartError(
            "RETORT_OTLP_ENDPOINT is set, but OpenTelemetry is not here; install the extra: "
            f"pip install 'retort[tracing]' ({exc.name or exc} is missing)"
        ) from exc
    collector = otlp.Collector(traces_url(endpoint), __version__)

    def note(result: str, n_spans: int) -> None:
        metrics.trace_spans[result].inc(n_spans)

    outbox = Outbox(_telling(collector.send, log), note, collector.delay_s)
    try:
        yield Tracer(share, outbox)
    finally:
        await outbox.close()
        collector.close()


def _telling(send: Send, log: Log) -> Send:
    """Wrap send so that the log says where a collector takes nothing."""

    def tell(spans: Sequence[RequestSpan]) -> bool:
        is_sent = send(spans)
        if not is_sent:
            log.fault("traces_not_sent", requests=len(spans), message="the collector did not take them")
        return is_sent

    return tell
