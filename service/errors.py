"""The error tree of the service.

    RetortError
    ├── StartError              start-up: one line on stderr, exit code 2
    │   └── GoldenError         a model whose answers are not those of its bundle
    ├── RefusedError            a published bundle that is not served: result is the label of model_swaps_total
    ├── RequestError            the caller's: status, code and message of the envelope
    └── DegradedError           caught in recommender: counted, and answered from the next level
        ├── StoreError          kind is the label of store_errors_total
        │   ├── StoreTimeoutError
        │   └── BreakerOpenError
        └── ModelError
            └── NonFiniteError

Foreign exceptions become one of these in the module that owns the library.
"""

from collections.abc import Mapping
from typing import Any


class RetortError(Exception):
    """Any error of the service's own."""


class StartError(RetortError):
    """The service cannot start as asked."""


class GoldenError(StartError):
    """The model loads, and answers something else than its bundle says."""


class RefusedError(RetortError):
    """A published bundle is not served. result: a label of model_swaps_total; error alone is worth another try."""

    def __init__(self, result: str, message: str) -> None:
        super().__init__(message)
        self.result = result


class RequestError(RetortError):
    """A request that is refused. code is a key of the status table in api."""

    def __init__(
        self, code: str, message: str, *, details: Any = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details
        self.headers = dict(headers or {})


class DegradedError(RetortError):
    """A part failed; the request is answered without it. reason is one of the closed list in recommender."""

    reason = "model_error"


class StoreError(DegradedError):
    """The store did not do what it was asked."""

    reason = "store_error"

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class StoreTimeoutError(StoreError):
    """The store did not answer in the time it was given."""

    reason = "store_timeout"

    def __init__(self) -> None:
        super().__init__("timeout")


class BreakerOpenError(StoreError):
    """The store failed a moment ago and is not asked."""

    reason = "breaker_open"

    def __init__(self) -> None:
        super().__init__("breaker_open")


class ModelError(DegradedError):
    """The encoder raised."""


class NonFiniteError(ModelError):
    """The encoder or a score came out as NaN or infinity."""

    reason = "nonfinite_scores"
