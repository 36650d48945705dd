"""The users by whom codes are measured."""

import numpy as np

from service.bundle import Bundle
from service.model.student import Student
from service.search.synthetic_user import draw_users


def test_same_bundle_gives_the_same_users(large_bundle: Bundle) -> None:
    encode = Student(large_bundle).encode

    users = draw_users(large_bundle, encode, 101)

    assert users.shape == (101, large_bundle.manifest.dim)
    np.testing.assert_array_equal(users, draw_users(large_bundle, encode, 101))


def test_users_with_a_taste_reach_further_out(large_bundle: Bundle) -> None:
    lengths = np.linalg.norm(draw_users(large_bundle, Student(large_bundle).encode, 400), axis=1)

    assert lengths[1::2].mean() > lengths[0::2].mean()
