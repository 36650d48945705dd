"""What events of an experiment count for, against a plain account of the same rules."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle import HistoryTypes
from service.experiment.answer_id import new_answer_id
from service.experiment.assignment import Assignment
from service.experiment.attribution import Attribution, Mark, Page, name_user
from service.experiment.record import Experiment

OTHER, LIVE, THIRD = "0" * 16, "a" * 16, "b" * 16
STARTED = 1_764_000_000.0
EXPERIMENT = Experiment("experiment", OTHER, LIVE, 50, "5" * 16, STARTED, "1" * 16)
USERS = [f"user {number}" for number in range(8)]
IS_OTHER = {user: Assignment(EXPERIMENT.salt, 50).takes(user) for user in USERS}
ONE_OF_OTHER = next(user for user in USERS if IS_OTHER[user])
ONE_OF_LIVE = next(user for user in USERS if not IS_OTHER[user])


def entry(**fields):
    """An entry of the stream."""
    event = {"user_id": ONE_OF_OTHER, "item_id": "i", "timestamp": STARTED + 1} | fields
    return b"1-1", json.dumps({name: value for name, value in event.items() if value is not None}).encode()


def count(*entries, types=None, conversions=(), experiment=EXPERIMENT):
    page = Page()
    Attribution(replace(experiment, conversions=conversions), HistoryTypes(types).effect).count(entries, page)
    return page


EVENTS = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(USERS),
        "timestamp": st.sampled_from([STARTED - 1, STARTED, STARTED + 0.5]),
        "event": st.sampled_from([None, "impression", "click", "purchase", "hide", "remove"]),
        "recommendation_id": st.sampled_from([None, "mine", *(new_answer_id(each) for each in (OTHER, LIVE, THIRD))]),
        "position": st.sampled_from([None, 1, 10, 11, 500]),
    }
)


@given(st.lists(EVENTS, max_size=30))
def test_page_is_what_a_plain_account_of_the_rules_makes_of_it(events):
    page = count(*(entry(**event) for event in events), types={"click": 0, "*": 1})

    marks = {}
    for event in events:
        type_, place, user = event["event"], event["position"], event["user_id"]
        is_named = place is not None or event["recommendation_id"] is not None
        if event["timestamp"] < STARTED or type_ in ("hide", "remove"):
            continue
        mark = Mark.SHOWN if type_ == "impression" else Mark(0)
        if type_ != "impression" and is_named and place in (1, 10):
            mark |= Mark.HIT
        if type_ in (None, "purchase"):
            mark |= Mark.CONVERTED
        if mark:
            marks[name_user(user)] = marks.get(name_user(user), Mark(0)) | mark | (8 if IS_OTHER[user] else 0)
    assert page.users == marks
    counted = [
        event for event in events
        if event["timestamp"] >= STARTED
        and (event["event"] == "impression"
             or (event["event"] not in ("hide", "remove")
                 and (event["position"] is not None or event["recommendation_id"] is not None)))
    ]  # fmt: skip
    assert page.events["older"] == sum(event["timestamp"] < STARTED for event in events)
    assert sum(page.events.values()) - page.events["astray"] - page.events["older"] == len(counted)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"recommendation_id": new_answer_id(OTHER), "position": 3}, {"other:clicks:3": 1}),
        ({"recommendation_id": new_answer_id(LIVE), "position": 3}, {"live:clicks:3": 1, "astray": 1}),
        ({"recommendation_id": new_answer_id(THIRD), "position": 3}, {"elsewhere": 1}),
        ({"recommendation_id": "of their own", "position": 11}, {"other:clicks:more": 1}),
        ({"recommendation_id": new_answer_id(OTHER)}, {"other:clicks:none": 1}),
        ({"position": 2}, {"other:clicks:2": 1}),
        ({"position": 2, "user_id": ONE_OF_LIVE}, {"live:clicks:2": 1}),
        ({"event": "impression"}, {"other:impressions:none": 1}),
        ({}, {}),
    ],
)
def test_event_is_of_the_version_that_its_answer_names_else_of_the_users(fields, expected):
    assert count(entry(**fields)).events == expected


def test_user_is_of_the_assigned_version_whatever_the_events_name():
    page = count(entry(recommendation_id=new_answer_id(LIVE), position=1))

    assert page.users == {name_user(ONE_OF_OTHER): Mark.OTHER | Mark.HIT | Mark.CONVERTED}


def test_conversions_are_the_types_that_are_set_even_where_these_enter_no_history():
    page = count(entry(event="buy"), entry(event="view", user_id=ONE_OF_LIVE), types={"buy": 0, "*": 1},
                 conversions=("buy",))  # fmt: skip

    assert page.users == {name_user(ONE_OF_OTHER): Mark.OTHER | Mark.CONVERTED}


@pytest.mark.parametrize(
    "event",
    [b"", b"{", b"[]", b"null", b'{"user_id":"u"}', b'{"user_id":1,"timestamp":1764000001}',
     b'{"user_id":"u","timestamp":"late"}', b'{"user_id":"u","timestamp":1764000001,"event":[]}',
     b'{"user_id":"u","timestamp":true}'],
)  # fmt: skip
def test_entry_that_is_no_event_adds_nothing(event):
    page = count((b"1-1", event))

    assert not page.events
    assert not page.users


def test_share_of_everybody_leaves_nobody_to_the_live_version():
    page = count(*(entry(user_id=user) for user in USERS), experiment=replace(EXPERIMENT, share=100.0))

    assert all(marks & Mark.OTHER for marks in page.users.values())
