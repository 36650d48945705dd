"""Questions about a shop of six items, worked out by hand."""

from tests.training.evaluation.shop import make_shop
from training.data.split import TEST, VAL
from training.evaluation.question import ask, judged_part


def test_a_question_holds_the_first_event_of_the_part_its_time_and_its_basket():
    question = ask(make_shop(), TEST)

    assert question.target.tolist() == [4, 1]
    assert question.asked_ms.tolist() == [40, 45]
    assert list(zip(question.baskets.owner.tolist(), question.baskets.rows.tolist(), strict=True)) == [
        (0, 0),
        (0, 4),
        (1, 1),
    ]
    assert question.is_repeat().tolist() == [False, True]


def test_the_history_is_everything_before_the_part_oldest_first():
    question = ask(make_shop(), TEST)

    assert [rows.tolist() for rows in question.seen(question.users)] == [[0, 1, 2], [1, 3, 5]]


def test_the_rule_about_seen_items_is_the_datas_unless_it_is_given():
    shop = make_shop()

    assert ask(shop, TEST).exclude_seen is False, "the shop's users take items again"
    assert ask(shop, TEST, exclude_seen=True).exclude_seen is True


def test_users_are_left_out_who_have_no_history_or_are_beyond_the_limit():
    shop = make_shop()
    assert len(ask(shop, TEST, limit=1).users) == 1

    shop.part[shop.user == 0] = TEST

    assert ask(shop, TEST).users.tolist() == [1]


def test_validation_is_judged_where_nothing_was_held_out_for_testing():
    shop = make_shop()
    assert judged_part(shop) == TEST

    shop.part[shop.part == TEST] = VAL

    assert judged_part(shop) == VAL
