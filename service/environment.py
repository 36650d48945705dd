"""Sets thread counts. Import it before numpy and prometheus_client, which read these variables once, at import.

numpy's BLAS gets one thread. The product of one request takes well under a millisecond, and on a busy machine threads
that wait for each other cost more than they save. Only the entry points of a process import this module: training uses
service.bundle, and must keep its threads.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PROMETHEUS_DISABLE_CREATED_SERIES", "true")
