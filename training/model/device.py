"""Where a model is computed: the device, and the number format of its products.

Training and soft labels use bfloat16 products where the hardware multiplies it natively; losses, weights and every
evaluation stay float32.
"""

from contextlib import AbstractContextManager

import torch

CHUNK_LOGITS = 1 << 22  # logits computed at once: 16 MB of float32, small enough for the processor's caches
GPU_CHUNK_LOGITS = 1 << 26  # 256 MB: a GPU wants long runs, and every chunk is a time to wait for it


def choose_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def chunk_logits(device_type: str) -> int:
    """Return how many logits are computed at once. device_type: "cuda" or "cpu"."""
    return GPU_CHUNK_LOGITS if device_type == "cuda" else CHUNK_LOGITS


def has_bfloat16(device_type: str) -> bool:
    """Return whether the device multiplies bfloat16 natively. device_type: "cuda" or "cpu"."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported()


def autocast(device_type: str) -> AbstractContextManager[None]:
    """Compute products in bfloat16 inside the context, where the hardware has it; elsewhere change nothing."""
    return torch.autocast(device_type, dtype=torch.bfloat16, enabled=has_bfloat16(device_type))
