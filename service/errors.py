"""The errors of the service.

    RetortError
    ├── StartError              the service cannot start: one line on stderr, exit code 2
    │   └── GoldenError         a model whose answers are not those of its bundle
    ├── RefusedError            a published bundle is not served
    ├── RequestError            a request is refused: an error answer to the caller
    │   └── FieldError          one of its fields cannot be applied to the model that answers
    └── DegradedError           something failed, and a request is answered without it
        ├── StoreError
        │   ├── StoreTimeoutError
        │   └── BreakerOpenError
        └── ModelError
            └── NonFiniteError

An error of a library becomes one of these in the module that owns the library. The errors of a bundle (BundleError) are
apart: service.bundle is also used without the service.
"""

from collections.abc import Mapping
from typing import Any

REASONS = (
    "cold_user", "stale_profile", "store_timeout", "store_error", "breaker_open", "deadline", "model_error",
    "nonfinite_scores", "stale_trend", "not_enough_items",
)  # fmt: skip
"""Why an answer is not all it could be, the most important reason first."""


class RetortError(Exception):
    """Any error of the service's own."""


class StartError(RetortError):
    """The service, or a command, cannot do what it was started for. The message is for the operator."""


class GoldenError(StartError):
    """The model can be loaded, but its answers are not the golden answers of its bundle."""


class RefusedError(RetortError):
    """A published bundle is not served."""

    def __init__(self, result: str, message: str) -> None:
        """result: one of SWAP_RESULTS in service.metrics; only "error" may go away by itself and is tried again."""
        super().__init__(message)
        self.result = result


class RequestError(RetortError):
    """A request is refused, with an error that its caller sees."""

    def __init__(
        self, code: str, message: str, *, details: Any = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """code: a key of STATUS in service.http.message. details: JSON for the caller. headers: of the answer."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details
        self.headers = dict(headers or {})


class FieldError(RequestError):
    """A field of a request names or asks for what the model that answers does not have."""

    def __init__(self, field: str, message: str) -> None:
        """field: its path in the body, such as filter.price.gte. message: what is wrong with it."""
        self.field = field = field[:200]
        self.text = message
        super().__init__("malformed", f"{field}: {message}", details=[{"field": field, "message": message}])


class DegradedError(RetortError):
    """Something failed that a request can be answered without. reason: one of REASONS."""

    reason = "model_error"


class StoreError(DegradedError):
    """The store did not do what it was asked. kind: one of STORE_KINDS in service.metrics, or "breaker_open".

    words: what the server or the system said, fit for a log; the message is both.
    """

    reason = "store_error"

    def __init__(self, kind: str, words: str = "") -> None:
        super().__init__(f"{kind}: {words}" if words else kind)
        self.kind, self.words = kind, words


class StoreTimeoutError(StoreError):
    """The store did not answer in the time it was given."""

    reason = "store_timeout"

    def __init__(self) -> None:
        super().__init__("timeout")


class BreakerOpenError(StoreError):
    """The store failed a moment ago, and was not asked."""

    reason = "breaker_open"

    def __init__(self) -> None:
        super().__init__("breaker_open")


class ModelError(DegradedError):
    """onnxruntime failed, or returned what it should not."""


class NonFiniteError(ModelError):
    """A user vector or a score is NaN or infinite."""

    reason = "nonfinite_scores"
