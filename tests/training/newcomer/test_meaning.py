"""What a language model says of the texts, as a further teacher of the item network."""

from pathlib import Path

import numpy as np
import pytest
import torch

from service.bundle import ItemText, pad_features
from tests.training.language_model import real_language_model
from training.newcomer.example import Examples
from training.newcomer.network import ItemNetwork
from training.newcomer.teaching import teach
from training.newcomer.text import hash_items
from training.progress import Progress
from training.teacher.item_text import encode_texts

KINDS = (("mug", "cup", "teapot"), ("hose", "lawn", "shovel"), ("guitar", "piano", "violin"))
TITLES = [f"{word} {number}" for words in KINDS for word in words for number in ("one", "two", "three", "four")]
FEATURES = hash_items([ItemText(title) for title in TITLES])
N_USERS, DIM = 200, 4


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of some steps alone."""
    monkeypatch.setattr("training.newcomer.teaching.LEAST_STEPS", 80)


def make_examples(meanings: np.ndarray | None) -> Examples:
    """Items whose vectors and takers say nothing of their kind."""
    rng = np.random.default_rng(0)
    vectors, states = (rng.normal(size=(n, DIM)).astype(np.float32) for n in (len(TITLES), N_USERS))
    taken = rng.integers(0, len(TITLES), N_USERS)
    return Examples(FEATURES, vectors, np.ones(len(TITLES), dtype=np.float32), states, taken, meanings)


def likeness(network: ItemNetwork) -> np.ndarray:
    """Return the cosines of the bags of all items."""
    with torch.no_grad():
        bags = torch.nn.functional.normalize(network.bag(torch.from_numpy(pad_features(FEATURES))))
    return (bags @ bags.T).numpy()


def test_network_finds_alike_what_the_language_model_finds_alike(tmp_path: Path, short: None) -> None:
    language_model = real_language_model()
    encode_texts(tmp_path, TITLES, language_model, Progress())
    meanings = np.load(tmp_path / "vectors.npy")
    others = ~np.equal.outer(*[[title.split()[0] for title in TITLES]] * 2)  # pairs of items of different words

    taught, plain = (likeness(teach(make_examples(each), 1, 0, Progress())) for each in (meanings, None))

    true = (meanings @ meanings.T)[others]
    assert np.corrcoef(taught[others], true)[0, 1] > np.corrcoef(plain[others], true)[0, 1] + 0.2


def test_language_model_leaves_nothing_in_the_network_but_weights(short: None) -> None:
    meanings = np.random.default_rng(1).normal(size=(len(TITLES), 6)).astype(np.float32)

    taught, plain = (teach(make_examples(each), 1, 0, Progress()).arrays() for each in (meanings, None))

    assert {name: (each.shape, each.dtype) for name, each in taught.items()} == {
        name: (each.shape, each.dtype) for name, each in plain.items()
    }
    assert (taught["table.weight"] != plain["table.weight"]).any()


def test_text_of_which_nothing_is_said_teaches_nothing(short: None) -> None:
    silent = teach(make_examples(np.zeros((len(TITLES), 6), dtype=np.float32)), 1, 0, Progress()).arrays()

    assert all(np.isfinite(each).all() for each in silent.values())


def test_examples_of_some_items_keep_their_meanings() -> None:
    meanings = np.arange(len(TITLES), dtype=np.float32)[:, None]

    some = make_examples(meanings).of_items(np.array([2, 5]))

    assert some.meanings is not None
    assert some.meanings.tolist() == [[2], [5]]
