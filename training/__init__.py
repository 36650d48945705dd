"""Training: teachers, soft labels, the student, and the bundle that the service loads.

torch's threads (GNU OpenMP) spin for milliseconds where one waits for another, and on a core that somebody else uses
too, spinning keeps from running whoever is waited for. Spinning 30 times less, a training step on two cores takes 5 %
longer on a quiet machine and a fifth less beside one busy process (2026-11-21). It is read when torch is loaded.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")
