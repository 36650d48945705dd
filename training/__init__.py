"""Training: teachers, soft labels, the student, and the bundle that the service loads.

A thread of torch (GNU OpenMP) that waits for another spins for milliseconds. On a core that another process uses too,
that keeps the awaited thread from running, so the spinning is shortened here (tests/bench/README.md, "Training on
shared cores"). The variable is read when torch is loaded, which is why it is set before any other import.

onnxruntime sends telemetry unless ORT_DISABLE_TELEMETRY is set before it is imported, see service/__init__.py.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ["ORT_DISABLE_TELEMETRY"] = os.environ.get("ORT_DISABLE_TELEMETRY") or "1"
