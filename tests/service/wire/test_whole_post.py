"""The usual requests of one connection, whose heads are read once."""

from hypothesis import given
from hypothesis import strategies as st

from service.wire.whole_post import PostReader, read_post

HEADS = (
    b"POST /recommend HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n",
    b"POST /recommend HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n",
    b"POST /events HTTP/1.1\r\nHost: b\r\nX-Long: " + b"x" * 2000 + b"\r\nContent-Length: 2\r\n\r\n",
    b"POST /recommend HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n",
    b"",
)
BODIES = (b"", b"{}", b"{ }", b"{}POST /recommend HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")


@given(st.lists(st.tuples(st.sampled_from(HEADS), st.sampled_from(BODIES), st.integers(0, 9))))
def test_a_reader_says_what_reading_each_alone_says(pieces: list[tuple[bytes, bytes, int]]) -> None:
    reader = PostReader()

    for head, body, cut in pieces:
        data = (head + body)[: len(head + body) - cut if cut else None]
        assert reader.read(data) == read_post(data)
