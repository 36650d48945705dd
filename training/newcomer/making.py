"""Make the item network of a trained student: teach one without some items, calibrate it, and teach one with all."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.data.event import Int64
from training.data.prepared import Prepared, training_events
from training.data.split import VAL
from training.evaluation.question import Question, ask
from training.model.encoder import SequenceModel
from training.newcomer.calibration import MOST_REQUESTS, apply_calibration, calibrate
from training.newcomer.example import Examples, gather_examples
from training.newcomer.network import ItemNetwork
from training.newcomer.teaching import teach
from training.progress import Progress

HELD_SHARE = 0.15  # of the items, for the calibration alone
LEAST_ITEMS = 20  # that something is said of: fewer teach nothing


@dataclass(frozen=True)
class Made:
    """A network that was calibrated, in eval(), the offset of its scores, and what the report says of both."""

    network: ItemNetwork
    offset: float
    about: dict[str, Any]


def make_network_of(
    model: SequenceModel,
    prepared: Prepared,
    features: list[Int64],
    epochs: int,
    progress: Progress,
    meanings: NDArray[np.float32] | None = None,
) -> Made | None:
    """Return the item network of a student; None where of fewer than LEAST_ITEMS items anything is said.

    features: of each item of prepared, see text.hash_items. meanings: what a language model says of each, see Examples.
    """
    if is_too_little(features):
        return None
    described = np.flatnonzero([len(row) > 0 for row in features])
    popularity = np.array([item.popularity for item in prepared.items], dtype=np.float32)
    whole = gather_examples(model, training_events(prepared), features, popularity)
    whole = replace(whole, meanings=meanings)
    examples = whole.of_items(described)
    users, taken = _requests(model, prepared, whole)
    inside = np.isin(taken, described)
    users, taken = users[inside], np.searchsorted(described, taken[inside])
    rows = np.random.default_rng(1).permutation(len(described))
    n_held = max(1, round(HELD_SHARE * len(rows)))
    held, taught = np.sort(rows[:n_held]), np.sort(rows[n_held:])
    found = calibrate(teach(examples.of_items(taught), epochs, 1, progress), examples, held, users, taken)
    network = apply_calibration(teach(examples, epochs, 0, progress), found)
    about = {"items": len(described), "without_text": len(features) - len(described), "calibrated_on": n_held}
    about |= {} if meanings is None else {"language_model": True}
    return Made(network, found.offset, about | {"scale": found.scale, "offset": found.offset})


def is_too_little(features: Sequence[Int64]) -> bool:
    """Return whether anything is said of fewer than LEAST_ITEMS items."""
    return sum(len(row) > 0 for row in features) < LEAST_ITEMS


def users_of(model: SequenceModel, question: Question, places: Int64 | None = None) -> NDArray[np.float32]:
    """Return the user vectors of the requests of a question float32 [U, D]. places: of these alone, in their order."""
    asked = np.arange(len(question.users)) if places is None else places
    users = np.zeros((len(question.users), model.size.dim), dtype=np.float32)
    with torch.no_grad():
        for batch, rows in question.batches(model.size.max_history, asked):
            users[batch] = model.users(rows.to(model.device)).cpu().numpy()
    return users[asked]


def _requests(model: SequenceModel, prepared: Prepared, whole: Examples) -> tuple[NDArray[np.float32], Int64]:
    """Return user vectors [R, D] and the rows that were taken [R], of validation or, where there is none, training."""
    if not (prepared.part == VAL).any():
        drawn = np.random.default_rng(2).permutation(len(whole.taken))[:MOST_REQUESTS]
        return whole.states[drawn], whole.taken[drawn]
    question = ask(prepared, VAL, limit=MOST_REQUESTS)
    warm = np.flatnonzero(question.lengths() > 0)  # without a history there is no taste
    return users_of(model, question, warm), question.target[warm]
