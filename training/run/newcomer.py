"""The stages of new items: item_encoder/, which goes into the bundle, and newcomers/, where such an encoder is judged.

The judged encoder is not the one of the bundle. Some items are held out whole, a student is trained without any event
of them, and an encoder is made of that student as the bundle's is made of its own.
"""

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from service.bundle import ItemTable, ItemText
from training.data.prepared import ITEMS, Prepared
from training.distillation.student import STUDENT
from training.distillation.teaching import learn_alone
from training.evaluation.trained import open_course, train_or_load
from training.export.item_graph import WEIGHTS, export_items, load_arrays
from training.model.checkpoint import load_model
from training.model.device import choose_device
from training.model.encoder import make_model
from training.newcomer.holding import hold_items
from training.newcomer.judge import judge_newcomers
from training.newcomer.making import LEAST_ITEMS, is_too_little, make_network_of
from training.newcomer.text import BUCKETS, hash_items, item_texts
from training.run.directory import Run, ensure_text, made_of, open_alone_size, open_schedule
from training.teacher.item_text import VECTORS

ENCODER, JUDGED = "item_encoder", "newcomers"
ABOUT, TABLE = "about.json", "newcomers.json"
NOT_SAID = f"of fewer than {LEAST_ITEMS} items anything is said: no encoder of new items is made"
NOT_ASKED = "newcomers.epochs is 0: no encoder of new items is made"
GOLDEN_ITEMS = 12


def run_item_encoder(run: Run, source: str) -> None:
    """Make the encoder of new items of the student that is exported. source: its stage, student or refit."""
    epochs = run.config.newcomers.epochs

    def work(out: Path) -> None:
        prepared, texts = run.prepared(), _texts(run)
        made = None
        if epochs:
            model = load_model(run.out / source / STUDENT)
            made = make_network_of(model, prepared, hash_items(texts), epochs, run.progress, _meanings(run))
        if made is not None:
            with (out / WEIGHTS).open("wb") as file:
                np.savez(file, **made.network.arrays())  # type: ignore[arg-type]  # its stub takes a flag for one
        about = {"left_out": NOT_SAID if epochs else NOT_ASKED} if made is None else made.about
        _write(out / ABOUT, about)
        run.progress.note(about.get("left_out") or _said(about))

    inputs = {"prepared": run.key("prepared"), source: run.key(source)}
    run.stage(ENCODER, {"epochs": epochs}, inputs | (ensure_text(run) if epochs else {}), work)


def with_encoder(run: Run, table: ItemTable) -> ItemTable:
    """Return an item table with the encoder of new items that run_item_encoder made; as it is where there is none."""
    out = run.out / ENCODER
    if not (out / WEIGHTS).exists():
        return table
    offset = float(json.loads((out / ABOUT).read_text())["offset"])
    counts = None if table.parts is None else table.parts.counts
    prior_count = 0.0 if counts is None else float(np.median(counts))
    golden = _golden_texts(_texts(run))
    return replace(
        table,
        encoding=export_items(load_arrays(out), golden, offset=offset, prior_count=prior_count, buckets=BUCKETS),
    )


def run_newcomers(run: Run) -> None:
    """Hold items out whole, and judge an encoder by them; nothing where newcomers.held_out is 0."""
    settings, prepared = run.config.newcomers, run.prepared()
    if not settings.held_out or not settings.epochs:
        run.progress.stage(JUDGED, "off: newcomers.held_out is 0" if settings.epochs else f"off: {NOT_ASKED}")
        return
    size = replace(open_alone_size(run.config), has_trend=False)
    made_with = {"newcomers": asdict(settings), "size": asdict(size), "student": made_of(run.config.student)}
    work = partial(_judge, run=run, prepared=prepared)
    run.stage(JUDGED, made_with, {"prepared": run.key("prepared")} | ensure_text(run), work)


def _judge(out: Path, run: Run, prepared: Prepared) -> None:
    """Write the table of an encoder that is judged on items held out into the directory out."""
    texts = _texts(run)
    features = hash_items(texts)
    held = hold_items(prepared, run.config.newcomers.held_out)
    requests = len(held.ask().users)
    run.progress.note(f"{len(held.rows):,} items held out whole; {requests:,} events of validation and test took them")
    known = [features[row] for row in held.known_rows.tolist()]
    if is_too_little(known) or not requests:
        why = NOT_SAID if requests else "no event of validation or test took one"
        _write(out / TABLE, {"left_out": why, "data": prepared.report["fingerprint"]})
        return
    schedule = open_schedule(run.config.student)
    size = replace(open_alone_size(run.config), has_trend=False)
    fresh = make_model(len(held.known.items), size, schedule.seed).to(choose_device())
    model = train_or_load(out / STUDENT, fresh, learn_alone, open_course(held.known, schedule, run.progress)).cpu()
    meanings = _meanings(run)
    of_known = None if meanings is None else meanings[held.known_rows]
    made = make_network_of(model, held.known, known, run.config.newcomers.epochs, run.progress, of_known)
    if made is not None:
        _write(out / TABLE, judge_newcomers(held, model, made, features, texts))


def _texts(run: Run) -> list[ItemText]:
    return item_texts(pl.read_parquet(run.out / "prepared" / ITEMS, glob=False))


def _meanings(run: Run) -> NDArray[np.float32] | None:
    """Return what the language model says of each item [N, W]; None where teacher.text names none."""
    return np.load(run.out / "text" / VECTORS) if run.config.teacher.text else None


def _golden_texts(texts: list[ItemText]) -> list[ItemText]:
    """Return texts to check a bundle with: none at all, words that no item has, and those of some items."""
    places = np.linspace(0, len(texts) - 1, GOLDEN_ITEMS).astype(int)
    said = [texts[place] for place in dict.fromkeys(places.tolist())]
    return [ItemText(), ItemText("Zzyzx qoph", "Ünïcode: 東京, naïve café.", {"no such": ["a", "b c"]}), *said]


def _said(about: dict[str, Any]) -> str:
    also = "and a language model " if about.get("language_model") else ""
    return (
        f"an encoder of new items, taught by {about['items']:,} items {also}({about['without_text']:,} have no text); "
        f"scores of new items x {about['scale']:.2f} {about['offset']:+.2f}, from {about['calibrated_on']:,} held out"
    )


def _write(path: Path, about: dict[str, Any]) -> None:
    path.write_text(json.dumps(about, indent=1) + "\n")
