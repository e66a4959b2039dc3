"""Vary how a question is worded: case, punctuation, politeness, synonyms and slips of the finger.

Everything takes a `random.Random`, so that the same seed makes the same corpus.
"""

from __future__ import annotations

import random
import re

PREFIXES = (
    "hey, ", "hi, ", "hello, ", "please ", "can you tell me: ", "quick question: ", "i'm new here, ", "sorry, ", "ok, ",
    "so ", "and ", "also, ", "one more thing: ", "help me understand: ", "i have a question. ", "tell me, ", "well, ",
    "could you say ", "i was wondering, ", "just curious, ", "next question: ", "thanks. ", "great. ", "hmm, ",
    "excuse me, ", "now ", "in your own words, ", "for a beginner: ", "good day. ", "right, ", "wait, ", "but ",
)
SUFFIXES = (
    " please", " thanks", ", please", " in short", " in simple words", " for a beginner", " exactly", " here", ", i forgot",
    " in this program", " in one sentence", " again", ", thank you", " briefly", "? thanks", "? i am lost", " when using localknobs",
    " in llama.cpp", "? i need to know", " if i may ask", ", can you help", " then", "? please explain",
)
SYNONYMS = (
    (r"\bquantization\b", ("quantisation", "quantizing", "quantization")), (r"\bquantize\b", ("quantise", "quantize")),
    (r"\bmodel\b", ("model", "llm", "language model", "network")), (r"\bprogram\b", ("program", "app", "tool", "application")),
    (r"\bexplain\b", ("describe", "explain", "clarify")), (r"\bwhat is\b", ("what's", "whats", "what is")),
    (r"\bdo I\b", ("do i", "does one", "do you", "should i")), (r"\bhow do I\b", ("how can i", "how do you", "how to", "how does one")),
    (r"\bmemory\b", ("memory", "RAM", "ram")), (r"\bgraphics card\b", ("GPU", "gpu", "video card")),
    (r"\bfine-tuning\b", ("finetuning", "fine tuning", "fine-tuning")), (r"\bfine-tune\b", ("finetune", "fine tune", "fine-tune")),
    (r"\banswer\b", ("answer", "reply", "response")), (r"\bprompt\b", ("prompt", "input", "prompt")),
    (r"\btemperature\b", ("temp", "temperature", "temperature")), (r"\bpenalty\b", ("penalty", "penalties")),
    (r"\bsetting\b", ("setting", "option", "parameter")), (r"\bslider\b", ("slider", "knob")),
)
_TYPO_WORD = re.compile(r"[a-z]{5,}")


def varied(text: str, rng: random.Random) -> str:
    """Return the question as another person might have typed it; the meaning stays."""
    if rng.random() < 0.2:
        pattern, choices = rng.choice(SYNONYMS)
        text = re.sub(pattern, rng.choice(choices), text, count=1)
    if rng.random() < 0.14:
        text = rng.choice(PREFIXES) + text[:1].lower() + text[1:]
    if rng.random() < 0.10:
        text = text.rstrip("?.! ") + rng.choice(SUFFIXES)
    if rng.random() < 0.10:
        text = _with_typo(text, rng)
    style = rng.random()
    if style < 0.45:
        text = text.lower()
    elif style < 0.75:
        text = text[:1].upper() + text[1:]
    ending = rng.random()
    if ending < 0.35:
        text = text.rstrip("?.! ")
    elif ending < 0.6 and text[-1:].isalnum():
        text += rng.choice(("?", "?", ".", "!", "??", " ?"))
    return text.strip() or "?"


def _with_typo(text: str, rng: random.Random) -> str:
    words = list(_TYPO_WORD.finditer(text))
    if not words:
        return text
    word = rng.choice(words)
    at = rng.randrange(word.start() + 1, word.end() - 1)
    slip = rng.randrange(3)
    if slip == 0:
        return text[:at] + text[at + 1 :]
    if slip == 1:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + text[at] + text[at:]
