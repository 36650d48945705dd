"""The online half of Retort: answers top-K requests from a bundle, inside a latency budget. Never imports torch.

onnxruntime sends telemetry unless the environment says otherwise when it is imported: it looks up a vendor's host, and
writes a device id and a queue under HOME. This package is imported before it in every process of the service, so the
word is said here. A value that the environment has already stays.
"""

import os

__version__ = "0.1.0"

os.environ["ORT_DISABLE_TELEMETRY"] = os.environ.get("ORT_DISABLE_TELEMETRY") or "1"
