"""A softmax that is estimated from some of the items, beside that of all."""

import numpy as np
import torch

from training.loss.sampled import draw_columns

N_USERS, N_ITEMS = 40, 3_000


def worlds():
    rng = np.random.default_rng(1)
    scores = [torch.from_numpy(rng.normal(size=(N_USERS, N_ITEMS)).astype(np.float32)) for _ in range(2)]
    target = torch.from_numpy(rng.integers(0, N_ITEMS, N_USERS))
    return scores, target, rng


def draw(rng, count, n_items=N_ITEMS):
    return torch.from_numpy(rng.integers(0, n_items, (N_USERS, count)))


def test_target_comes_first_then_the_highest_and_no_item_counts_twice():
    scores, target, rng = worlds()

    sample = draw_columns(scores, target, 50, draw(rng, 299))

    assert sample.columns.shape == sample.is_again.shape == sample.stands_for.shape == (N_USERS, 400)
    assert (sample.columns[:, 0] == target).all() and not sample.is_again[:, 0].any()
    for user in range(N_USERS):
        counted = sample.columns[user, ~sample.is_again[user]].tolist()
        assert len(counted) == len(set(counted))
        for kind in scores:
            assert set(kind[user].topk(50).indices.tolist()) <= set(counted)


def test_what_counts_stands_for_the_whole_catalogue():
    scores, target, rng = worlds()

    sample = draw_columns(scores, target, 50, draw(rng, 299))

    stood_for = torch.where(sample.is_again, 0.0, sample.stands_for.exp()).sum(dim=1)
    np.testing.assert_allclose(stood_for, N_ITEMS, rtol=1e-4)


def test_sum_of_the_sample_is_on_average_that_of_all():
    scores, target, rng = worlds()
    whole = (2 * scores[0] + scores[1]).logsumexp(dim=1)

    errors = []
    for _ in range(30):
        sample = draw_columns(scores, target, 50, draw(rng, 299))
        some = 2 * scores[0].gather(1, sample.columns) + scores[1].gather(1, sample.columns) + sample.stands_for
        errors.append(some.masked_fill(sample.is_again, -1e9).logsumexp(dim=1).exp() / whole.exp() - 1)

    assert abs(float(torch.cat(errors).mean())) < 0.01
    assert float(torch.cat(errors).std()) < 0.15


def test_small_catalogue_is_there_as_a_whole_where_all_are_first():
    scores, target, rng = worlds()

    sample = draw_columns([scores[0][:, :60]], target % 60, 100, draw(rng, 139, 60))

    assert all(
        sorted(row[~again].tolist()) == list(range(60))
        for row, again in zip(sample.columns, sample.is_again, strict=True)
    )
