"""POST /recommend, from bytes to bytes: the body is validated once, the answer is put together once.

An ASGI application of its own, because FastAPI's routing, dependency and response layers cost as much as the answer.
The gate calls it straight; api lists the same object as a route, so that the OpenAPI document stays whole.
"""

import random
import time
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from service.body import read_json
from service.edition import Edition, Editions
from service.errors import RequestError
from service.gate import STATUS, Trace, send_error, send_json
from service.metrics import Metrics
from service.query import Answer, Query
from service.schema import RecommendRequest, parse_recommend

BODY_BYTES = 1 << 20


class RecommendEndpoint:
    """Answers POST /recommend."""

    def __init__(self, editions: Editions, metrics: Metrics, *, budget_ms: int) -> None:
        """budget_ms: of a request that names none."""
        self._editions, self._metrics, self._budget_ms = editions, metrics, budget_ms
        self._qualities: dict[tuple[str, ...], bytes] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        trace: Trace = scope["retort"]
        try:
            body = await self.respond(scope, receive)
        except RequestError as exc:
            trace.status = STATUS[exc.code]
            await send_error(send, exc)
            return
        except Exception:  # a border: a bug must still be answered, and is then logged
            await send_error(send, RequestError("internal", "a bug: see the log"))
            raise
        trace.status = 200
        await send_json(send, body)

    async def respond(self, scope: Scope, receive: Receive) -> bytes:
        """Return the JSON of the answer. Raises RequestError."""
        trace: Trace = scope["retort"]
        body = await read_json(scope, receive, BODY_BYTES)
        trace.began = start = time.monotonic()
        asked = parse_recommend(body)
        self._metrics.stage["parse"].observe(time.monotonic() - start)
        edition = self._editions.live  # to the end, whatever is swapped meanwhile
        answer = await edition.recommender.recommend(self._query(asked, edition, trace))
        return self._render(asked, answer, edition, trace)

    def _query(self, asked: RecommendRequest, edition: Edition, trace: Trace) -> Query:
        budget_s = (asked.budget_ms or self._budget_ms) / 1000
        return Query(
            user_id=asked.user_id,
            k=asked.k,
            history=asked.history,
            exclude=asked.exclude,
            exclude_seen=edition.exclude_seen if asked.exclude_seen is None else asked.exclude_seen,
            candidates=asked.candidates,
            caller=trace,
            arrived=trace.arrived,
            deadline=trace.arrived + budget_s,
            budget_s=budget_s,
            is_debug=asked.debug,
        )

    def _render(self, asked: RecommendRequest, answer: Answer, edition: Edition, trace: Trace) -> bytes:
        start = time.monotonic()
        took_s = start - trace.arrived
        recommendation_id = f"{random.getrandbits(128):032x}"  # a name, not a secret
        extra = orjson.dumps({"stages_ms": answer.stages_ms, "funnel": answer.funnel}) if asked.debug else None
        parts = [
            b'{"recommendation_id":"', recommendation_id.encode(),
            b'","user_id":', orjson.dumps(asked.user_id),
            b',"model_version":', edition.version_json,
            b',"items":[', edition.index.render(answer.ranked),
            b'],"quality":', self._quality(answer),
            b',"ignored_ids":', orjson.dumps(answer.ignored_ids) if answer.ignored_ids else b"[]",
            b',"took_ms":', b"%.3f" % (took_s * 1000),
        ]  # fmt: skip
        parts += [b',"debug":', extra, b"}"] if extra else [b"}"]
        reason = answer.reasons[0] if answer.reasons else "none"
        self._metrics.count_answer(
            answer.level, reason, is_within=took_s <= (asked.budget_ms or self._budget_ms) / 1000
        )
        trace.fields = {
            "recommendation_id": recommendation_id, "user_id": asked.user_id, "level": answer.level,
            "reason": reason, "k": asked.k,
        }  # fmt: skip
        body = b"".join(parts)
        self._metrics.stage["serialize"].observe(time.monotonic() - start)
        return body

    def _quality(self, answer: Answer) -> bytes:
        """The JSON of the answer's quality; there are few different ones."""
        key = (answer.level, *answer.reasons)
        found = self._qualities.get(key)
        if found is None:
            quality: dict[str, Any] = {"level": answer.level, "reasons": answer.reasons}
            found = self._qualities[key] = orjson.dumps(quality)
        return found
