"""Ids become rows, rows become ids, and the answers that need no search."""

from pathlib import Path

import numpy as np
import pytest

from service.bundle import Item, open_bundle
from service.errors import NonFiniteError
from service.model.catalogue import Catalogue
from tests.service.search.slow import draw_users, slow_best, slow_scores
from tests.service.toy import DIM, N_ITEMS, toy_parts, write_toy_sum


@pytest.fixture
def catalogue(toy_bundle: Path) -> Catalogue:
    return Catalogue(open_bundle(toy_bundle))


def test_known_ids_become_rows_and_unknown_ones_are_named_once(catalogue: Catalogue) -> None:
    assert catalogue.find_rows(["i3", "nobody", "i1", "i3", "nobody"]) == ([3, 1, 3], ["nobody"])


def test_everything_masked_leaves_nothing(catalogue: Catalogue) -> None:
    (ranked,) = catalogue.best(catalogue.score(draw_users(1), 10, 0), 10, [list(range(len(catalogue)))])

    assert ranked is not None
    assert ranked[0] == []


def test_candidates_are_ranked_without_the_masked_ones(toy_bundle: Path, catalogue: Catalogue) -> None:
    (user,) = draw_users(1)
    table = open_bundle(toy_bundle).table

    rows, scores = catalogue.best_of(user, 5, masked=[2, 4], candidates=range(20))

    assert rows == slow_best(table, user, 5, [2, 4, *range(20, N_ITEMS)])
    np.testing.assert_allclose(scores, slow_scores(table, user)[rows], rtol=1e-6)
    with pytest.raises(NonFiniteError):
        catalogue.best_of(np.full(DIM, np.nan, np.float32), 5, masked=[], candidates=[1])


def test_most_popular_are_the_first_items_of_the_toy_bundle(catalogue: Catalogue) -> None:
    assert catalogue.most_popular(3, masked=[1])[0] == [0, 2, 3]
    assert catalogue.most_popular(3, masked=[1], candidates=[9, 1, 7, 9])[0] == [7, 9]


@pytest.mark.parametrize("counts", [(0.0,), (0.0, 0.0, 3.0), (1e-40, 1e-30, 0.0), (1.0, 2.0)], ids=range(4))
def test_items_of_which_the_trend_says_the_same_stand_in_the_order_of_popularity(
    tmp_path: Path, counts: tuple[float, ...]
) -> None:
    n_items, rng = 900, np.random.default_rng(0)
    popularity = rng.permutation(n_items) // 3
    items = [Item(f"i{row}", float(popular)) for row, popular in enumerate(popularity)]
    catalogue = Catalogue(write_toy_sum(tmp_path / "b", n_items=n_items, parts=toy_parts(n_items), items=items))
    own = np.resize(np.array(counts, dtype=np.float32), n_items)
    catalogue.set_counts(own, 0.0)
    logs = np.log(own + np.float32(0.05))

    for k, masked in ((10, []), (400, []), (300, range(0, n_items, 2))):
        rows, _ = catalogue.most_popular(k, masked)

        left = set(range(n_items)) - set(masked)
        assert rows == sorted(left, key=lambda row: (-logs[row], -popularity[row], f"i{row}"))[:k]


def test_dissolved_catalogue_holds_no_ids(catalogue: Catalogue) -> None:
    for _ in catalogue.dissolve():
        pass

    assert len(catalogue) == 0
    assert catalogue.find_rows(["i1"]) == ([], ["i1"])


def test_rendered_items_are_json_whatever_is_in_the_ids(catalogue: Catalogue) -> None:
    assert catalogue.render(([3, 1], np.array([0.1, -2], dtype=np.float32))) == (
        b'{"item_id":"i3","score":0.1},{"item_id":"i1","score":-2.0}'
    )
    assert catalogue.render(([], np.zeros(0, dtype=np.float32))) == b""
