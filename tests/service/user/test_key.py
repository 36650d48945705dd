"""Keys of users: no two users share one, and both keys of a user lie on one node of a Cluster."""

import re

from hypothesis import given
from hypothesis import strategies as st

from service.user.key import UserKeys, encode_user

ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=128)


@given(st.lists(ids, min_size=2, max_size=20, unique=True))
def test_no_two_users_share_an_encoding(users: list[str]) -> None:
    assert len({encode_user(user) for user in users}) == len(users)


@given(ids)
def test_encoded_user_is_a_safe_cluster_hash_tag(user: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.%-]+", encode_user(user))


def test_keys_of_a_user_differ_only_after_the_hash_tag() -> None:
    keys = UserKeys("shop")

    assert (keys.history("a:b"), keys.record("a:b"), keys.stream) == ("shop:{a%3Ab}:h", "shop:{a%3Ab}:e", "shop:events")
