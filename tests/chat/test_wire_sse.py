"""Server-sent events survive being cut into pieces anywhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from phronesis.chat.wire.sse import EventReader, ServerEvent, encode

lines = st.text(st.characters(exclude_characters="\r\n", exclude_categories=("Cs",)), max_size=12)
events = st.builds(
    ServerEvent, st.lists(lines, min_size=1, max_size=3).map("\n".join), st.from_regex(r"[a-z_]*", fullmatch=True)
)


@given(st.lists(events, max_size=4), st.lists(st.integers(1, 7), min_size=1), st.sampled_from((b"\n", b"\r\n", b"\r")))
def test_any_cut_gives_the_same_events(sent: list[ServerEvent], sizes: list[int], ending: bytes):
    stream = b"".join(map(encode, sent)).replace(b"\n", ending)
    reader, found, at, n = EventReader(), list[ServerEvent](), 0, 0
    while at < len(stream):
        size = sizes[n % len(sizes)]
        found += reader.feed(stream[at : at + size])
        at, n = at + size, n + 1
    assert found == sent and not reader.torn


def test_separators_of_unicode_do_not_end_a_line():
    assert EventReader().feed("data: a\u2028b\x85c\n\n".encode()) == [ServerEvent("a\u2028b\x85c")]


def test_comments_and_unknown_fields_are_passed_over_and_a_torn_event_is_told():
    reader = EventReader()
    assert reader.feed(b": keep-alive\nid: 7\nretry: 3\n\ndata: x\n\ndata: y") == [ServerEvent("x")]
    assert reader.torn
