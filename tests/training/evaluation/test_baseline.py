"""The baselines on a checkerboard: even users take even items and odd users odd ones, so the right answer is known."""

import json

import numpy as np
import pytest

from service.bundle import Item
from training.data.prepared import Prepared
from training.data.split import TEST
from training.errors import InputError
from training.evaluation import baseline
from training.evaluation.baseline import BASELINES, parse_models, rank_baseline, rank_baselines, training_data
from training.evaluation.judge import Ranking
from training.evaluation.question import ask
from training.progress import Progress

N_USERS, N_ITEMS, TAKEN = 40, 12, 5
DAY_MS = 86_400_000


def prepared_of(user, item, time_ms, part, n_items=N_ITEMS):
    return Prepared(
        users=[f"u{n}" for n in range(int(max(user)) + 1)],
        items=[Item(str(n), 1.0, None, {}) for n in range(n_items)],
        user=np.asarray(user, dtype=np.int32),
        item=np.asarray(item, dtype=np.int32),
        timestamp_ms=np.asarray(time_ms, dtype=np.int64),
        part=np.asarray(part, dtype=np.uint8),
        report={"repeat_consumption": False, "settings": {"max_history": 500}, "fingerprint": "board"},
    )


@pytest.fixture
def board():
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(N_USERS), TAKEN)
    item = np.concatenate([2 * rng.permutation(N_ITEMS // 2)[:TAKEN] + u % 2 for u in range(N_USERS)])
    part = np.tile([0] * (TAKEN - 2) + [1, 2], N_USERS)
    return prepared_of(user, item, np.tile(np.arange(TAKEN) * DAY_MS, N_USERS), part)


@pytest.mark.parametrize("name", ["item_knn", "ease", "ials"])
def test_a_baseline_that_learns_ranks_the_users_own_colour_first(name, board):
    ranking, about = rank_baseline(training_data(board), BASELINES[name])

    left = N_ITEMS // 2 - (TAKEN - 1)  # items of the colour that the user has not taken
    assert (ranking.ranks <= left).mean() > 0.9, "64 factors of 12 items learn some of the noise too"
    assert about["setting"] in [dict(setting) for setting in BASELINES[name].grid]
    assert (ranking.top[:, 0] % 2 == np.arange(N_USERS) % 2).mean() > 0.9


@pytest.mark.parametrize("name", ["item_knn", "ease", "ials"])
def test_a_user_without_a_history_is_given_the_popular_items(name, board):
    board.part[:TAKEN] = TEST  # the first user is new; item 0 is made the most popular
    board.items[0] = Item("0", 99.0, None, {})

    ranking, _ = rank_baseline(training_data(board), BASELINES[name])

    assert ranking.top[0, 0] == 0


def test_popularity_counts_training_events_only(board):
    ranking, _ = rank_baseline(training_data(board), BASELINES["popularity"])

    counts = np.bincount(board.item[board.part == 0], minlength=N_ITEMS)
    free = ranking.other.top  # seen items ranked: the same list for everybody
    assert (np.diff(counts[free[0]]) <= 0).all()
    assert (counts[free] == counts[free[0]]).all()


@pytest.mark.parametrize(("setting", "counted"), [({"window_days": 7}, [0, 2]), ({"half_life_hours": 24}, [0, 1])])
def test_recent_popularity_counts_what_came_just_before_each_question_and_never_after(setting, counted):
    # item 0 was taken thrice long ago, item 1 twice yesterday (once by a test user), item 2 after user 5 is asked
    rows = [(n, 0, 0, 0) for n in range(3)] + [(3, 1, 99, 0), (4, 1, 99, 2)] + [(n, 2, 100, 0) for n in range(4)]
    rows += [(5, 3, 1, 0), (5, 4, 98, 1), (5, 1, 100, 2)]
    user, item, day, part = zip(*sorted(rows), strict=True)
    world = prepared_of(user, item, np.array(day) * DAY_MS, part, n_items=5)
    question = ask(world, TEST)

    score = BASELINES["recent_popularity"].train(training_data(world), setting)(question)

    last = np.flatnonzero(question.users == 5)
    scores = score(last, None)[0]
    assert scores[:2].astype(int).tolist() == counted
    assert scores.argmax() == 1 and scores[2] < 1, "what ties with the request is not before it"


def test_the_bar_is_the_better_of_windows_and_decayed_counts_on_validation(board):
    _, about = rank_baseline(training_data(board), BASELINES["recent_popularity"])

    assert [next(iter(row)) for row in about["tried"]] == ["window_days"] * 6 + ["half_life_hours"] * 8
    assert about["validation"] == max(row["validation"] for row in about["tried"])


def test_the_stage_leaves_a_ranking_and_a_note_of_each_and_goes_on_where_it_stopped(board, tmp_path):
    rank_baselines(tmp_path, board, ["popularity", "item_knn"], Progress())
    first = (tmp_path / "item_knn.npz").stat().st_mtime_ns

    rank_baselines(tmp_path, board, ["popularity", "item_knn", "ease"], Progress())

    assert (tmp_path / "item_knn.npz").stat().st_mtime_ns == first
    assert len(Ranking.load(tmp_path / "ease.npz").ranks) == N_USERS
    assert json.loads((tmp_path / "ease.json").read_text())["validation"] > 0


def test_settings_that_a_catalogue_has_no_room_for_are_left_out(board, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(baseline, "MOST_NEIGHBOURS", 100 * len(board.items))

    rank_baselines(tmp_path, board, ["item_knn"], Progress())

    tried = json.loads((tmp_path / "item_knn.json").read_text())["tried"]
    assert [row["neighbours"] for row in tried] == [20, 100] * 2
    assert "2 settings take too much memory" in capsys.readouterr().err


def test_names_are_checked_and_say_what_there_is():
    assert parse_models("ease, popularity,ease") == ["ease", "popularity"]
    assert parse_models("") == []
    with pytest.raises(InputError, match="unknown 'slim'; known: popularity"):
        parse_models("slim")
