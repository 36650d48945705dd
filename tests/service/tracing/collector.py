"""A small OTLP collector on a real socket: it takes traces over HTTP in protobuf, and can be slow or refuse."""

import gzip
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Exported


class Receiver:
    """What has arrived. status: what it answers. is_open: cleared, it takes a request and does not answer."""

    def __init__(self) -> None:
        self.spans: list[Exported] = []
        self.resources: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.status = 200
        self.is_open = threading.Event()
        self.is_open.set()
        self.url = ""

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        """Take a request, and return the status of the answer."""
        self.is_open.wait()
        if self.status != 200:
            return self.status
        raw = gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body
        message = ExportTraceServiceRequest.FromString(raw)
        self.paths.append(path)
        self.headers.append(headers)
        for resource in message.resource_spans:
            self.resources.append(values(resource.resource.attributes))
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return 200

    def roots(self) -> list[Exported]:
        """The spans of whole requests."""
        return [span for span in self.spans if span.kind == Exported.SPAN_KIND_SERVER]

    def tree(self, root: Exported) -> Any:
        """Return a span and what is below it: its name, and the trees of its parts in the order of their start."""
        parts: dict[bytes, list[Exported]] = defaultdict(list)
        for span in self.spans:
            parts[span.parent_span_id].append(span)

        def grow(span: Exported) -> Any:
            below = sorted(parts[span.span_id], key=lambda part: (part.start_time_unix_nano, part.end_time_unix_nano))
            return (span.name, [grow(part) for part in below]) if below else span.name

        return grow(root)


def values(attributes: Any) -> dict[str, Any]:
    """Return attributes as a dictionary."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextmanager
def collecting() -> Iterator[Receiver]:
    """Run a collector."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(receiver.take(self.path, dict(self.headers), body))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield receiver
    finally:
        receiver.is_open.set()
        server.shutdown()
        server.server_close()
        thread.join()
