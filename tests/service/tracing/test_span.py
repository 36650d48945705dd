"""Spans: what follows what, and how long one lasts that nobody has ended."""

from service.tracing.span import RequestSpan, Span


def test_what_follows_begins_where_the_newest_part_has_ended() -> None:
    span = Span("whole", 10.0)

    span.follow("first", 11.0)
    span.add("second", 11.5, 12.0)
    span.follow("third", 13.0)

    assert [(part.name, part.start, part.end) for part in span.parts] == [
        ("first", 10.0, 11.0),
        ("second", 11.5, 12.0),
        ("third", 12.0, 13.0),
    ]


def test_what_follows_a_part_that_ends_later_has_no_length() -> None:
    span = Span("whole", 10.0)

    span.add("long", 10.0, 20.0)
    span.follow("queue", 12.0)

    assert (span.parts[-1].start, span.parts[-1].end) == (12.0, 12.0)


def test_a_span_that_is_not_ended_lasts_as_long_as_its_parts() -> None:
    span = Span("whole", 10.0)
    assert span.last() == 10.0

    span.add("slot", 10.5).add("score", 11.0, 12.5)
    span.add("serialize", 11.0, 12.0)
    assert span.last() == 12.5

    span.end = 11.0
    assert span.last() == 11.0


def test_size_counts_every_part() -> None:
    span = RequestSpan("whole", 0.0, trace_id=1)
    for _ in range(3):
        span.add("answer", 0.0).add("score", 0.0, 1.0)

    assert span.size() == 7
