"""OpenTelemetry: recorded requests become its spans and go to a collector, as OTLP over HTTP in protobuf.

Everything here runs in the outbox's thread, after the answers. Nothing imports this module but the tracer, and only
where there is a collector. What the standard's variables say of the collector and of this process is read by the
library itself (service/README.md, "Tracing").
"""

import logging
import os
import time
import uuid
from collections.abc import Sequence
from http import HTTPStatus

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_BSP_SCHEDULE_DELAY
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from service.errors import StartError
from service.tracing.span import RequestSpan, Span

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NS = 1e9
_DELAY_MS = "5000"


class Collector:
    """Where recorded requests go."""

    def __init__(self, url: str, version: str) -> None:
        """url: of the traces. version: of the service."""
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # the outbox says what was not sent
        self._ids, self._ended = _Ids(), _Ended()
        own = Resource({"service.name": "retort", "service.version": version, "service.instance.id": str(uuid.uuid4())})
        resource = Resource.create().merge(own).merge(OTELResourceDetector().detect())
        provider = TracerProvider(ALWAYS_ON, resource, id_generator=self._ids, shutdown_on_exit=False)
        provider.add_span_processor(self._ended)
        self._tracer = provider.get_tracer("retort", version)
        self._exporter = OTLPSpanExporter(url)

    @property
    def delay_s(self) -> float:
        """How long a span waits for others at most, as the standard's variable says. Raises StartError."""
        text = os.environ.get(OTEL_BSP_SCHEDULE_DELAY, "").strip() or _DELAY_MS
        if not (text.isascii() and text.isdecimal() and len(text) < 8):
            raise StartError(f"{OTEL_BSP_SCHEDULE_DELAY}: give milliseconds, such as {_DELAY_MS}")
        return int(text) / 1000

    def send(self, spans: Sequence[RequestSpan]) -> bool:
        """Send recorded requests; return whether the collector has taken them."""
        self._ended.spans.clear()
        since = time.time() - time.monotonic()
        for span in spans:
            self._begin(span, since)
        ended = self._ended.spans  # none where OTEL_SDK_DISABLED says so
        return bool(ended) and self._exporter.export(ended) is SpanExportResult.SUCCESS

    def close(self) -> None:
        """Try nothing again: what is being sent may end."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _begin(self, span: RequestSpan, since: float) -> None:
        """Make the library's spans of a request. since: the Unix time at which the monotonic clock was 0."""
        self._ids.trace_id = span.trace_id
        context = None
        if span.parent_id:
            remote = SpanContext(span.trace_id, span.parent_id, is_remote=True, trace_flags=_SAMPLED)
            context = trace.set_span_in_context(NonRecordingSpan(remote))
        self._make(span, context, since, SpanKind.SERVER)

    def _make(self, span: Span, context: Context | None, since: float, kind: SpanKind) -> None:
        made = self._tracer.start_span(
            span.name, context, kind, span.attributes, start_time=round((since + span.start) * _NS)
        )
        if int(span.attributes.get("http.response.status_code", 0)) >= HTTPStatus.INTERNAL_SERVER_ERROR:
            made.set_status(Status(StatusCode.ERROR))
        inside = trace.set_span_in_context(made) if span.parts else None
        for part in list(span.parts):
            self._make(part, inside, since, SpanKind.INTERNAL)
        made.end(round((since + span.last()) * _NS))


class _Ids(RandomIdGenerator):
    """Gives a request without a parent the trace that was drawn when it began."""

    trace_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id


class _Ended(SpanProcessor):
    """Keeps the spans that have ended."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)
