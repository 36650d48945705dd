"""Where a model is trained: the device, its number format, and the memory that the allocator keeps."""

import ctypes
import sys
from contextlib import AbstractContextManager

import torch

CHUNK_LOGITS = 1 << 22  # logits alive at once: 16 MB, small enough to stay near the processor


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def choose_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device_type: str) -> AbstractContextManager[None]:
    """Run products in bfloat16 where the hardware has it, else change nothing."""
    return torch.autocast(device_type, dtype=torch.bfloat16, enabled=has_bfloat16(device_type))


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks of up to 32 MB instead of returning each to the system at once.

    The pages of every temporary [P, N] are otherwise faulted in anew: the distillation loss of 1156 x 3626 logits takes
    30 ms with this and 43 to 51 without (one core, 2026-11-21). Elsewhere than on glibc it does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def has_bfloat16(device_type: str) -> bool:
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported()
