"""Examples for the reader, on a shop of six items and two users."""

import numpy as np

from service.bundle import Item
from tests.training.evaluation.shop import falling, make_shop
from training.data.split import TEST
from training.evaluation.judge import Ranking, rank
from training.evaluation.question import ask
from training.report.example import draw_examples


def test_an_example_shows_the_history_the_target_and_what_each_model_ranked_best():
    question = ask(make_shop(), TEST)
    items = [Item(str(n), 1.0, f"item {n}" if n else None, {"colour": ["red", "blue"]}) for n in range(6)]

    examples = draw_examples(question, {"teacher": rank(question, falling, 10)}, items)

    first = next(example for example in examples if example.target.title == "item 4")
    assert [item.title for item in first.history] == ["0", "item 1", "item 2"], "an id where there is no title"
    assert first.target.is_target and first.target.note == "red, blue"
    (shown,) = first.lists
    assert (shown.model, shown.target_rank) == ("teacher", 5)
    assert [item.is_target for item in shown.best] == [False] * 4 + [True, False]


def test_half_of_the_users_are_drawn_whose_item_was_found_and_none_without_a_target():
    question = ask(make_shop(), TEST)
    top = np.zeros((2, 6), dtype=np.int32)
    items = make_shop().items

    examples = draw_examples(question, {"student": Ranking(np.array([1, 99]), top)}, items)

    assert [example.lists[0].target_rank for example in examples] == [1, 99], "found ones first"
    question.target[1] = -1
    assert len(draw_examples(question, {"student": Ranking(np.array([1, 99]), top)}, items)) == 1
