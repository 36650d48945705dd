"""A server that answers as it is told to, one reply after the other, and keeps what it was asked."""

import json
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWER = {
    "recommendation_id": "0" * 32, "user_id": "u", "model_version": "1" * 16,
    "items": [{"item_id": "i1", "score": 2.5, "title": "one"}], "quality": {"level": "full", "reasons": []},
    "ignored_ids": [], "took_ms": 1.0, "new_field": 7,
}  # fmt: skip
STORED = {"accepted": 1, "duplicates": 0, "rejected": []}


def failure(status: int, code: str = "overloaded", retry_after: str | None = None) -> tuple[int, dict[str, str], Any]:
    """A reply of the service's form."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return status, headers, {"error": {"code": code, "message": "said so"}}


class Scripted:
    """replies: status, headers and body each; the last one stays. None hangs up, "wait" answers only at the end."""

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.asked: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.peers: set[Any] = set()
        self.may_end = threading.Event()

    def __enter__(self) -> "Scripted":
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 5

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.asked.append((self.command, self.path, json.loads(body) if body else None))
                outer.headers.append(dict(self.headers.items()))
                outer.peers.add(self.client_address)
                reply = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                if reply == "wait":
                    outer.may_end.wait(10)
                if reply is None or reply == "wait":
                    self.close_connection = True
                    return
                status, headers, answer = reply
                text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.may_end.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def bodies(self, path: str) -> Sequence[Any]:
        """What was asked at a path."""
        return [body for _, asked, body in self.asked if asked == path]
