"""A network that is taught on some items: what it gives for others, and that the exported graph gives the same."""

import numpy as np
import pytest
import torch

from service.bundle import ItemText, hash_text
from tests.training.newcomer.shop import KINDS, N_ITEMS, kind_of, make_shop, make_student, shop_texts
from training.data.prepared import training_events
from training.errors import StageError
from training.export.item_graph import encode_plainly, export_items, round_arrays
from training.newcomer.calibration import _fit_scores
from training.newcomer.example import Examples, gather_examples
from training.newcomer.holding import hold_items
from training.newcomer.judge import category_scores, judge_newcomers, neighbour_vectors
from training.newcomer.making import LEAST_ITEMS, Made, make_network_of, users_of
from training.newcomer.network import load_network
from training.newcomer.teaching import teach
from training.newcomer.text import BUCKETS, hash_items
from training.progress import Progress

SHOP, TEXTS = make_shop(), shop_texts()
FEATURES = hash_items(TEXTS)


@pytest.fixture(scope="module")
def made() -> Made:
    found = make_network_of(make_student(), SHOP, FEATURES, 30, Progress())
    assert found is not None
    return found


def test_new_items_lie_with_those_of_their_kind(made: Made) -> None:
    texts = [ItemText(f"a fine {kind} nobody has seen", None, {"kind": [kind]}) for kind in KINDS]

    vectors, confidences = made.network.encode(hash_items(texts))

    assert vectors[:, : len(KINDS)].argmax(axis=1).tolist() == list(range(len(KINDS)))
    assert ((confidences > 0) & (confidences <= 1)).all()


def test_network_is_sure_of_nothing_when_nothing_is_known(made: Made) -> None:
    vectors, confidences = made.network.encode(hash_items([ItemText(), ItemText("Zzyzx qoph")]))

    assert confidences[0] == 0
    assert vectors[0] == pytest.approx((made.network.mean * made.network.scale).detach().numpy(), abs=0.5)
    assert np.isfinite(vectors).all()


def test_network_is_surer_when_more_is_known(made: Made) -> None:
    texts = [ItemText("a lamp number 8", None, {"kind": ["lamp"]}), ItemText("xylograph")]

    _, (known, unknown) = made.network.encode(hash_items(texts))

    assert known > unknown


def test_equal_seeds_give_equal_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    popularity = np.ones(N_ITEMS, dtype=np.float32)
    examples = gather_examples(make_student(), training_events(SHOP), FEATURES, popularity)  # some say nothing
    monkeypatch.setattr("training.newcomer.teaching.LEAST_STEPS", 3)
    first, second, other = (teach(examples, 2, seed, Progress()).arrays() for seed in (3, 3, 4))

    assert all(np.isfinite(first[name]).all() and (first[name] == second[name]).all() for name in first)
    assert (first["linear.weight"] != other["linear.weight"]).any()


def test_nothing_is_made_when_little_is_said_of_the_items() -> None:
    bare = [row if place < LEAST_ITEMS - 1 else row[:0] for place, row in enumerate(FEATURES)]

    assert make_network_of(make_student(), SHOP, bare, 1, Progress()) is None


def test_examples_are_users_just_before_what_they_took() -> None:
    model, events = make_student(), training_events(SHOP)
    examples = gather_examples(model, events, FEATURES, np.ones(N_ITEMS, dtype=np.float32))

    number = 0
    for user in range(events.n_users):
        rows = events.item[events.offset[user] : events.offset[user + 1]]
        for stop in range(1, len(rows)):
            history = torch.tensor(rows[max(0, stop - 10) : stop][None].astype(np.int64))
            with torch.no_grad():
                assert examples.states[number] == pytest.approx(model.users(history)[0].numpy(), abs=1e-5)
            assert examples.taken[number] == rows[stop]
            number += 1
    assert number == len(examples.taken)


def test_examples_of_some_items_keep_their_events_alone() -> None:
    examples = gather_examples(make_student(), training_events(SHOP), FEATURES, np.arange(N_ITEMS, dtype=np.float32))
    rows = np.array([3, 7, 50])

    some = examples.of_items(rows)

    assert some.popularity.tolist() == [3, 7, 50]
    assert rows[some.taken].tolist() == [row for row in examples.taken if row in rows]


@pytest.mark.parametrize(("log_scale", "offset"), [(0.0, 0.0), (0.7, -1.0), (-0.5, 1.5)])
def test_calibration_finds_the_scale_and_shows_new_items_as_often_as_they_are_taken(
    log_scale: float, offset: float
) -> None:
    rng = np.random.default_rng(0)
    vectors = 1.5 * rng.normal(size=(60, 6)).astype(np.float32)
    held = np.arange(0, 60, 3)
    users = rng.normal(size=(4000, 6)).astype(np.float32)
    scores = users @ vectors.T
    scores[:, held] = scores[:, held] * np.exp(log_scale) + offset
    taken = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)
    examples = Examples([], vectors, np.ones(60, dtype=np.float32), users, taken)

    scale, found = _fit_scores(examples, held, vectors[held], users, taken)

    assert np.log(scale) == pytest.approx(log_scale, abs=0.15)
    shown = users @ vectors.T
    shown[:, held] = shown[:, held] * scale + found
    best = np.argsort(-shown, axis=1)[:, :10]
    assert np.isin(best, held).mean() == pytest.approx(np.isin(taken, held).mean(), abs=0.003)


def test_offset_is_the_likeliest_where_no_new_item_was_taken() -> None:
    rng = np.random.default_rng(0)
    vectors, users = rng.normal(size=(30, 6)).astype(np.float32), rng.normal(size=(200, 6)).astype(np.float32)
    held, taken = np.arange(3), np.full(200, 7)
    examples = Examples([], vectors, np.ones(30, dtype=np.float32), users, taken)

    scale, offset = _fit_scores(examples, held, vectors[held], users, taken)

    assert np.isfinite([scale, offset]).all()
    assert -20 < offset < 0


def test_exported_graph_gives_what_the_network_gives(made: Made) -> None:
    texts = [*TEXTS[:15], ItemText("Zzyzx"), ItemText("a lamp", "a chair, and a candle " * 40)]

    encoding = export_items(made.network.arrays(), texts, offset=-1.0, prior_count=2.0, buckets=BUCKETS)

    vectors, confidences = made.network.encode(hash_items(texts))
    assert np.stack([each.vector for each in encoding.golden]) == pytest.approx(vectors, abs=0.03)
    assert [each.confidence for each in encoding.golden] == pytest.approx(confidences, abs=0.02)
    assert (encoding.offset, encoding.prior_count, encoding.buckets) == (-1.0, 2.0, BUCKETS)


def test_network_is_read_back_from_its_arrays(made: Made) -> None:
    again = load_network(made.network.arrays())

    for own, other in zip(made.network.encode(FEATURES), again.encode(FEATURES), strict=True):
        assert (own == other).all()


def test_export_is_refused_when_a_number_is_not_finite(made: Made) -> None:
    broken = made.network.arrays() | {"mean": np.full(8, np.nan, dtype=np.float32)}

    with pytest.raises(StageError, match="item encoder"):
        export_items(broken, TEXTS[:2], offset=0.0, prior_count=0.0, buckets=BUCKETS)


def test_plain_formula_knows_no_more_than_the_features(made: Made) -> None:
    stored = round_arrays(made.network.arrays())
    features = hash_text(TEXTS[3], BUCKETS)

    vector, confidence = encode_plainly(stored, features)
    backwards, same = encode_plainly(stored, features[::-1])

    assert vector == pytest.approx(backwards, abs=1e-5)
    assert confidence == pytest.approx(same, abs=1e-6)


def test_encoder_tells_new_items_apart_better_than_chance() -> None:
    held = hold_items(SHOP, 0.25)
    model = make_student(held.known_rows)
    known = [FEATURES[row] for row in held.known_rows]
    made = make_network_of(model, held.known, known, 30, Progress())
    assert made is not None

    table = judge_newcomers(held, model, made, FEATURES, TEXTS)

    assert table["held_out"] == 30 and table["requests"] == len(held.ask().users)
    rows = table["models"]
    assert list(rows) == ["encoder", "text_neighbour", "popular_in_category", "random"]
    assert rows["encoder"]["ndcg@10"] > 1.5 * rows["random"]["ndcg@10"]
    assert rows["random"]["encoder_ahead"]["low"] > 0
    assert 0 <= table["shown"]["places"] <= 1 and table["shown"]["items"] == pytest.approx(0.25)


def test_category_is_as_popular_as_its_most_popular_value() -> None:
    held = hold_items(SHOP, 0.25)

    found = category_scores(held, TEXTS)

    sold = np.zeros(len(KINDS))
    for row, item in zip(held.known_rows, held.known.items, strict=True):
        sold[kind_of(row)] += item.popularity if row % 10 != 9 else 0
    assert found is not None
    assert found.tolist() == [0 if row % 10 == 9 else sold[kind_of(row)] for row in held.rows]
    assert category_scores(held, [ItemText("title")] * N_ITEMS) is None


def test_nearest_texts_are_of_the_same_kind() -> None:
    held = hold_items(SHOP, 0.25)
    vectors = neighbour_vectors(FEATURES, held, make_student(held.known_rows).items.weight.detach().numpy())

    for row, vector in zip(held.rows, vectors, strict=True):
        if row % 10 != 9:
            assert vector[: len(KINDS)].argmax() == kind_of(row)


def test_users_are_in_the_order_asked_for() -> None:
    question = hold_items(SHOP, 0.25).ask_all(40)
    model = make_student(hold_items(SHOP, 0.25).known_rows)

    whole = users_of(model, question)

    assert users_of(model, question, np.array([5, 2])) == pytest.approx(whole[[5, 2]], abs=1e-5)
