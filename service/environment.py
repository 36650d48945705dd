"""What must stand in the environment before other modules are imported: this one is imported first, by __main__ alone.

numpy's BLAS and prometheus_client read these once, at import. One BLAS thread: the matrix product of one request takes
well under a millisecond, and threads that wait for each other on a busy machine cost more than they save.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PROMETHEUS_DISABLE_CREATED_SERIES", "true")
