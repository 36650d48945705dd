"""What must stand in the environment before other modules are imported: this one is imported first, by __main__ alone.

numpy's BLAS and prometheus_client read these once, at import. One BLAS thread: the matrix product of one request takes
well under a millisecond, and threads that wait for each other on a busy machine cost more than they save. What the
environment says already stays; an empty value says nothing.
"""

import os

_DEFAULTS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PROMETHEUS_DISABLE_CREATED_SERIES": "true"}

for _name in (*_DEFAULTS, "PROMETHEUS_MULTIPROC_DIR", "HOME", "TMPDIR"):
    if not os.environ.get(_name, "-"):
        del os.environ[_name]
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)
