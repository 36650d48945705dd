"""What is counted, logged and recorded of every request, under labels of closed lists."""

from service.access.key import DOCUMENT_PATHS, OPEN_PATHS
from service.logs import Log
from service.metrics import METHODS, ROUTES, Metrics
from service.tracing.tracer import Tracer
from service.wire.reply import RawHeaders
from service.wire.trace import Trace


class Account:
    """Counts requests, writes a line for each to the log, and records some, where a log and a tracer are given."""

    def __init__(self, metrics: Metrics, log: Log | None, tracer: Tracer | None = None) -> None:
        self._metrics, self._log, self._tracer = metrics, log, tracer
        self.n_in_flight = 0
        metrics.watch(metrics.in_flight, lambda: self.n_in_flight)

    def let_in(self, path: str, headers: RawHeaders, trace: Trace) -> None:
        """Record a request that may come in, if it is one of those that are recorded."""
        if self._tracer is not None and path not in OPEN_PATHS:
            trace.span = self._tracer.begin(headers, trace.arrived)

    def shed(self, reason: str) -> None:
        """Count a request that is refused to spare the service."""
        self._metrics.shed[reason].inc()

    def refused(self, path: str, method: str, reason: str) -> None:
        """Count a request that was refused before it began."""
        self.shed(reason)
        self._metrics.count_http(route_of(path, method), method, 503, None)

    def malformed(self, status: int) -> None:
        """Count bytes that are no request."""
        self._metrics.count_http("unmatched", "OTHER", status, None)

    def ended(self, path: str, method: str, trace: Trace, now: float) -> None:
        """Count and log a request that has ended. now: in seconds of time.monotonic()."""
        self.n_in_flight -= 1
        seconds, route = now - trace.arrived, route_of(path, method)
        self._metrics.count_http(route, method, trace.status, seconds)
        known = method if method in METHODS else "OTHER"  # it may be any text
        if self._tracer is not None and trace.span is not None:
            known_route = None if route == "unmatched" else route
            self._tracer.end(trace.span, known_route, known, trace.status, now)
            trace.fields["trace_id"] = f"{trace.span.trace_id:032x}"
        if self._log is not None and route not in OPEN_PATHS:
            took_ms = round(seconds * 1000, 3)
            self._log.write(
                "info", "request", route=route, method=known, status=trace.status, took_ms=took_ms, **trace.fields
            )


def route_of(path: str, method: str) -> str:
    """Return the template of a path, or unmatched: labels come from a closed list, never from a caller."""
    if path.startswith("/users/") and len(path) > len("/users/"):
        return "/users/{user_id}"
    if path.startswith("/items/") and len(path) > len("/items/"):
        return "/items/search" if (method, path) == ("POST", "/items/search") else "/items/{item_id}"
    if path.startswith("/scenarios/") and len(path) > len("/scenarios/"):
        return "/scenarios/{name}"
    if path in DOCUMENT_PATHS and path != "/openapi.json":
        return "/docs"
    if path.startswith("/page/"):
        return "/"
    return path if path in ROUTES else "unmatched"
