from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st

from service.experiment.assignment import Assignment

N_USERS = 20_000


@given(user=st.text(max_size=128), salt=st.text("0123456789abcdef", min_size=1, max_size=16), share=st.floats(0, 100))
def test_user_is_in_where_the_salted_hash_lies_in_the_share(user, salt, share):
    digest = blake2b(user.encode(), key=salt.encode(), digest_size=8).hexdigest()

    place = int(digest, 16) / 2**64 * 100

    assert Assignment(salt, share).takes(user) is Assignment(salt, share).takes(user)
    if abs(place - share) > 1e-9:
        assert Assignment(salt, share).takes(user) is (place < share)


@given(user=st.text(max_size=128), shares=st.lists(st.floats(0, 100), min_size=2, max_size=6))
def test_user_who_is_in_at_a_share_is_in_at_every_larger_one(user, shares):
    taken = [Assignment("5a17", share).takes(user) for share in sorted(shares)]

    assert taken == sorted(taken)


def test_share_of_the_users_is_taken_and_evenly_over_salts_and_shares():
    users = [f"user-{number}" for number in range(N_USERS)]

    for salt in ("00", "01", "ffffffffffffffff"):
        for share in (0.5, 5, 20, 50, 95):
            n_in = sum(map(Assignment(salt, share).takes, users))
            spread = (N_USERS * share / 100 * (1 - share / 100)) ** 0.5
            assert abs(n_in - N_USERS * share / 100) < 4.5 * spread


def test_two_salts_take_users_independently_of_each_other():
    users = [f"user-{number}" for number in range(N_USERS)]
    one, other = Assignment("aa", 30), Assignment("ab", 30)

    n_both = sum(one.takes(user) and other.takes(user) for user in users)

    assert abs(n_both - N_USERS * 0.09) < 4.5 * (N_USERS * 0.09 * 0.91) ** 0.5


def test_nothing_and_everything_are_shares_and_a_request_without_user_is_never_in():
    users = [f"user-{number}" for number in range(1000)]

    assert not any(map(Assignment("5a17", 0).takes, users))
    assert all(map(Assignment("5a17", 100).takes, users))
    assert not Assignment("5a17", 100).takes(None)
