"""Where a model is computed: the device, the number format of its products, and how memory is given back.

Training and soft labels use bfloat16 products where the hardware multiplies it natively; losses, weights and every
evaluation stay float32.
"""

import ctypes
import sys
from contextlib import AbstractContextManager

import torch

CHUNK_LOGITS = 1 << 22  # logits computed at once: 16 MB of float32, small enough for the processor's caches
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # the numbers of mallopt's options in glibc's malloc.h


def choose_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_bfloat16(device_type: str) -> bool:
    """Return whether the device multiplies bfloat16 natively. device_type: "cuda" or "cpu"."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported()


def autocast(device_type: str) -> AbstractContextManager[None]:
    """Compute products in bfloat16 inside the context, where the hardware has it; elsewhere change nothing."""
    return torch.autocast(device_type, dtype=torch.bfloat16, enabled=has_bfloat16(device_type))


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks of up to 32 MB instead of returning each to the system at once.

    Without it, the pages of every temporary array of logits are mapped anew at each step, which makes the distillation
    loss up to 1.7 times slower: tests/bench/README.md, "Freed memory is kept". Where the C library is not glibc, this
    does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
