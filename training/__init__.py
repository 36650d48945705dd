"""Training: teachers, soft labels, the student, and the bundle that the service loads.

torch's threads (GNU OpenMP) spin for milliseconds where one waits for another, and on a core that somebody else uses
too, spinning keeps from running whoever is waited for. Spinning 30 times less, a training step on two cores takes 5 %
longer on a quiet machine and a fifth less beside one busy process (2026-11-21). It is read when torch is loaded.

onnxruntime sends telemetry unless ORT_DISABLE_TELEMETRY is set before it is imported, see service/__init__.py.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ["ORT_DISABLE_TELEMETRY"] = os.environ.get("ORT_DISABLE_TELEMETRY") or "1"
