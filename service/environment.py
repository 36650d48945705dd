"""Sets thread counts. Import it before numpy and prometheus_client, which read these variables once, at import.

numpy's BLAS gets one thread. The product of one request takes well under a millisecond, and on a busy machine threads
that wait for each other cost more than they save. What the environment says already stays; an empty value says nothing.
Only the entry points of a process import this module: training uses service.bundle, and must keep its threads.
"""

import os

_DEFAULTS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PROMETHEUS_DISABLE_CREATED_SERIES": "true"}

for _name in (*_DEFAULTS, "PROMETHEUS_MULTIPROC_DIR", "HOME", "TMPDIR"):
    if not os.environ.get(_name, "-"):
        del os.environ[_name]
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)
