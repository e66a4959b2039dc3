"""Bytes of tokens to text: characters and stop strings that are split across tokens."""

from __future__ import annotations

import pytest

from localknobs.engine.text import TextAssembler


def feed(pieces: list[bytes], stops: tuple[str, ...] = ()) -> tuple[list[str], TextAssembler]:
    text = TextAssembler(stops)
    shown = [text.push(piece) for piece in pieces]
    return [*shown, text.finish()], text


def single_bytes(text: str) -> list[bytes]:
    return [bytes([byte]) for byte in text.encode()]


@pytest.mark.parametrize("text", ["plain", "é", "€uro", "a😀b", "👩‍👩‍👧", "日本語"])
def test_characters_come_whole_however_their_bytes_arrive(text):
    shown, assembler = feed(single_bytes(text))
    assert "".join(shown) == text and "\ufffd" not in "".join(shown)
    assert all(len(piece) <= 1 for piece in shown)
    assert assembler.length == len(text)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xff", "\ufffd"),
        (b"a\x80b", "a\ufffdb"),
        (b"\xe2\x82", "\ufffd"),  # cut off by the end of the answer
        (b"\xe2a", "\ufffda"),
        (b"\xf0\x9f\x98\x80\xf0\x9f", "😀\ufffd"),
        (b"\xc0\xaf", "\ufffd\ufffd"),  # overlong
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),  # half of a surrogate pair
        (b"\x00a", "\x00a"),
    ],
)
def test_bytes_that_are_no_characters_become_the_replacement_mark_and_nothing_is_lost_after_them(data, text):
    for pieces in ([data], [bytes([byte]) for byte in data]):
        assert "".join(feed(pieces)[0]) == text


@pytest.mark.parametrize("stop", ["END", "éND", "E"])
def test_a_stop_string_split_across_pieces_is_not_shown(stop):
    shown, text = feed(single_bytes(f"before {stop} after"), (stop,))
    assert "".join(shown) == "before " and text.stopped
    assert text.length == len("before ")


def test_a_stop_string_may_begin_and_end_inside_a_piece():
    shown, text = feed([b"one tw", b"o three", b" four"], ("wo thr",))
    assert shown == ["one t", "", "", ""] and text.stopped


def test_what_only_began_like_a_stop_string_is_shown():
    shown, text = feed([b"a<", b"|im", b"x|>"], ("<|im_end|>",))
    assert shown == ["a", "", "<|imx|>", ""] and not text.stopped


def test_what_was_held_back_is_shown_at_the_end():
    shown, text = feed([b"a<|im"], ("<|im_end|>",))
    assert shown == ["a", "<|im"] and text.length == 5


def test_the_earliest_of_several_stop_strings_counts():
    assert "".join(feed([b"abcdef"], ("ef", "cd", "zz"))[0]) == "ab"
    assert "".join(feed(single_bytes("abcdef"), ("def", "cd"))[0]) == "ab"


def test_a_stop_string_that_overlaps_itself_is_found():
    assert "".join(feed(single_bytes("aaab"), ("aab",))[0]) == "a"


def test_after_a_stop_nothing_more_is_shown():
    text = TextAssembler(("b",))
    assert text.push(b"ab") == "a"
    assert text.push(b"cd") == "" and text.finish() == ""


def test_stop_strings_can_be_changed_while_text_is_held_back():
    text = TextAssembler(("cde",))
    assert text.push(b"abc") == "ab" and text.written == 3
    text.set_stops(("cx",))
    assert text.push(b"x") == "" and text.stopped

    text = TextAssembler(("cde",))
    assert text.push(b"abc") == "ab"
    text.set_stops(())
    assert text.push(b"x") == "cx" and text.length == text.written == 4
