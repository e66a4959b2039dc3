"""Guesses from the text itself: where it stood before, the longest match first, and never a stale place."""

from __future__ import annotations

import random

from localknobs.engine.drafters import NgramDrafter


def guess(drafter: NgramDrafter, text: list[int], count: int) -> tuple[str, list[int]] | None:
    found = drafter.look(text)
    return (found[0], drafter.draft(text, count)) if found else None


def test_what_followed_is_guessed_and_a_loop_goes_on():
    drafter = NgramDrafter(2)
    assert guess(drafter, [1, 2, 3, 4, 5], 3) is None
    assert guess(drafter, [1, 2, 3, 4, 5, 1, 2], 3) == ("ngram 2", [3, 4, 5])
    assert guess(NgramDrafter(2), [7, 8, 7, 8, 7, 8], 7)[1] == [7, 8, 7, 8, 7, 8, 7]
    assert guess(NgramDrafter(3), [1, 2], 3) is None


def test_the_longest_match_wins_then_the_latest():
    #        longest: 1 2 3 4 -> 9     latest of the short ones: 3 4 -> 6
    text = [1, 2, 3, 4, 9, 0, 3, 4, 6, 0, 1, 2, 3, 4]
    assert guess(NgramDrafter(2), text, 1) == ("ngram 4", [9])
    assert guess(NgramDrafter(2), [3, 4, 9, 0, 3, 4, 6, 0, 3, 4], 1) == ("ngram 2", [6])
    long = list(range(20))
    assert guess(NgramDrafter(2), [*long, 50, *long], 1) == ("ngram 8", [50])


def test_a_text_that_grows_is_learnt_as_one_read_at_once():
    luck = random.Random(3)
    text = [luck.randrange(4) for _ in range(400)]
    growing = NgramDrafter(3)
    end = 1
    while end < len(text):
        assert guess(growing, text[:end], 5) == guess(NgramDrafter(3), text[:end], 5)
        end += luck.randrange(1, 6)


def test_another_text_or_a_cut_one_begins_anew():
    drafter = NgramDrafter(2)
    guess(drafter, [1, 2, 3, 1, 2, 3, 1], 2)
    assert guess(drafter, [9, 8, 1, 2], 2) is None
    assert guess(drafter, [9, 8, 1, 2, 9, 8], 2) == ("ngram 2", [1, 2])
    assert guess(drafter, [9, 8, 1], 2) is None  # shorter: nothing beyond its end may be read
