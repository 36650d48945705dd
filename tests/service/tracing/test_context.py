"""The header traceparent: what Trace Context takes, and everything that it does not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.tracing.context import Context, find_context, parse_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SOUND = f"00-{TRACE}-{SPAN}-01"
MALFORMED = [
    "",
    "-",
    "00",
    SOUND[:-1],
    SOUND + "0",
    SOUND + "-",
    SOUND + "-what-comes-later",
    SOUND.upper(),
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE[:-1]}g-{SPAN}-01",
    f"00-{TRACE[:-1]}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}",
    f"00-{TRACE}-{SPAN}-",
    f"00-{TRACE}-{SPAN}-0x",
    f"00-{TRACE}-{SPAN}-+1",
    f"0-{TRACE}-{SPAN}-01",
    f"00_{TRACE}_{SPAN}_01",
    f"00 {TRACE} {SPAN} 01",
    f"{SOUND},{SOUND}",
    f"01-{TRACE}-{SPAN}-01.later",
    f"00-{TRACE}-{SPAN}-01\x00",
    f'"{SOUND}"',
    "x" * 5000,
]


def slow_parse(text: str) -> Context | None:
    """Read a header by the words of Trace Context, field by field."""
    fields = text.strip(" \t").split("-")
    if len(fields) < 4 or [len(field) for field in fields[:4]] != [2, 32, 16, 2]:
        return None
    if any(letter not in "0123456789abcdef" for field in fields[:4] for letter in field):
        return None
    version, trace_id, parent_id, flags = (int(field, 16) for field in fields[:4])
    if version == 255 or (version == 0 and len(fields) > 4) or not trace_id or not parent_id:
        return None
    return Context(trace_id, parent_id, flags % 2 == 1)


@pytest.mark.parametrize(("flags", "is_sampled"), [("00", False), ("01", True), ("02", False), ("03", True)])
def test_last_bit_of_the_flags_says_whether_a_trace_is_recorded(flags: str, is_sampled: bool) -> None:
    assert parse_traceparent(f"00-{TRACE}-{SPAN}-{flags}".encode()) == Context(
        int(TRACE, 16), int(SPAN, 16), is_sampled
    )


def test_a_later_version_may_add_fields() -> None:
    expected = Context(int(TRACE, 16), int(SPAN, 16), True)

    assert parse_traceparent(f"01-{TRACE}-{SPAN}-01".encode()) == expected
    assert parse_traceparent(f"cc-{TRACE}-{SPAN}-01-what-comes-later".encode()) == expected


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_header_is_none(text: str) -> None:
    assert parse_traceparent(text.encode("latin-1")) is None


@settings(max_examples=60)
@given(
    st.one_of(
        st.text(st.characters(max_codepoint=255), max_size=80),
        st.from_regex(r"\A(00|01|ff)-[0-9a-f]{31,33}-[0-9a-fA]{15,17}-0[0-3g](-x)?\Z"),
        st.from_regex(r"\A[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[a-z]*)?\Z"),
        st.from_regex(r"\A0[01]-0{31}[01]-0{15}[01]-01\Z"),
    )
)
def test_every_text_is_read_as_by_the_words_of_the_standard(text: str) -> None:
    assert parse_traceparent(text.encode("latin-1")) == slow_parse(text)


def test_several_headers_are_none() -> None:
    header = (b"traceparent", SOUND.encode())

    assert find_context([(b"host", b"x"), header]) is not None
    assert find_context([header, header]) is None
    assert find_context([(b"tracestate", b"a=b")]) is None
