"""What a language model knows of the items: one vector for each, from its title, description and attributes.

Any Hugging Face encoder can be used. It is given as a directory; nothing is downloaded. An item's vector is the mean of
the states of its tokens, which is how sentence encoders are trained to be read (Reimers and Gurevych 2019).
"""

import json
import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from training.data.item_file import PREFIX
from training.errors import InputError
from training.progress import Progress
from training.stage import file_fingerprint

VECTORS = "vectors.npy"
TOKENS = 128  # of an item's text; the rest is cut
ITEMS_AT_ONCE = 64
CONFIG = "config.json"
NEAR = ("*/", "snapshots/*/", "*/snapshots/*/")  # where a package, and the cache of a download, keep it
TAKES = "teacher.text takes the directory that save_pretrained or a model's download left"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
Float32 = NDArray[np.float32]


def fingerprint_language_model(path: Path) -> str:
    """Return a fingerprint of a Hugging Face encoder's files. Raises InputError where path holds none."""
    weights = _weights_in(path)
    if weights is None:
        near = (found.parent for depth in NEAR for found in sorted(path.glob(depth + CONFIG)))
        inside = [found for found in near if _weights_in(found)]
        raise InputError(
            f"{path}: not a Hugging Face encoder: no {CONFIG} and {WEIGHTS[0]} in it. "
            + (f"{inside[0]} has both: teacher.text={inside[0]}" if inside else TAKES)
        )
    return file_fingerprint(path / CONFIG) + file_fingerprint(weights)


def _weights_in(path: Path) -> Path | None:
    """Return the weights of the encoder in a directory; None where it is none."""
    found = [path / name for name in WEIGHTS if (path / name).is_file()]
    return found[0] if found and (path / CONFIG).is_file() else None


def describe(items: pl.DataFrame) -> list[str]:
    """Return the text of each item: title, description, then 'name: value, value' of each attribute that it has.

    items: a row an item. An item that has none of these has an empty text.
    """
    names = [name for name in items.columns if name.startswith(PREFIX)]
    return [
        ". ".join(
            [row[name] for name in ("title", "description") if row[name]]
            + [f"{name.removeprefix(PREFIX)}: {', '.join(row[name])}" for name in names if row[name]]
        )
        for row in items.iter_rows(named=True)
    ]


def encode_texts(out: Path, texts: list[str], language_model: Path, progress: Progress) -> None:
    """Write vectors.npy, float32 [N, W] of unit length, into the directory out. The vector of an empty text is zero.

    language_model: the directory of a Hugging Face encoder. Raises InputError where the package transformers is not
    installed, where no item has a text, and where it cannot be read.
    """
    described = [row for row, text in enumerate(texts) if text]
    if not described:
        raise InputError("no item has a title, a description or an attribute: teacher.text needs --items FILE")
    tokenizer, model = _open(language_model)
    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    with progress.bar("item texts", len(described)) as bar:
        for rows, batch in _batches(texts, described):
            vectors[rows] = _vectors_of(tokenizer, model, batch)
            bar.advance(len(rows))
    if not np.isfinite(vectors).all():
        raise InputError(f"{language_model}: gives vectors that are not finite numbers")
    np.save(out / VECTORS, vectors)
    about = {"encoder": str(language_model), "items": len(texts), "without_text": len(texts) - len(described)}
    (out / "text.json").write_text(json.dumps(about, indent=1) + "\n")
    progress.note(f"texts of {len(described):,} of {len(texts):,} items encoded")


def _open(path: Path) -> tuple[Any, Any]:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # is read when the package is imported; only a path is ever opened
    try:
        package = import_module("transformers")  # an extra that takes long to import: only who uses texts needs it
    except ImportError as exc:
        raise InputError("teacher.text needs the package transformers: pip install 'retort[train,text]'") from exc
    try:
        return (
            package.AutoTokenizer.from_pretrained(path, local_files_only=True),
            package.AutoModel.from_pretrained(path, local_files_only=True).eval(),
        )
    except (OSError, ValueError, KeyError) as exc:
        raise InputError(f"{path}: cannot be read as a Hugging Face encoder: {exc}") from exc


def _batches(texts: list[str], rows: list[int]) -> Iterator[tuple[list[int], list[str]]]:
    """Yield (rows, their texts) in batches of texts of like length, so that little padding is computed."""
    order = sorted(rows, key=lambda row: len(texts[row]))
    for start in range(0, len(order), ITEMS_AT_ONCE):
        batch = order[start : start + ITEMS_AT_ONCE]
        yield batch, [texts[row] for row in batch]


@torch.no_grad()
def _vectors_of(tokenizer: Any, model: Any, texts: list[str]) -> Float32:
    """Return the mean state of the tokens of each text, as unit vectors [B, W]."""
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
    states = model(**inputs).last_hidden_state  # [B, T, W]
    real = inputs["attention_mask"][:, :, None].to(states.dtype)
    mean = (states * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
    return torch.nn.functional.normalize(mean, dim=-1).float().numpy()
