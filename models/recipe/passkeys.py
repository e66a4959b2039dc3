"""Pass keys: a number told earlier in the context and asked for later, near or far."""

from __future__ import annotations

import random

from stories import HEROES, NAMES, story

GIVE = (
    "the pass key is {key}. remember it.", "Remember this pass key: {key}.", "My pass key is {key}. Please keep it in mind.", "please remember the number {key}",
    "The passkey is {key}, I will ask you for it later.", "the secret code is {key}", "Keep this code for me: {key}", "note the pass key {key}", "Here is the key: {key}. Do not forget it.",
    "I give you the pass key {key}.", "memorize {key}", "The password number is {key}. Remember it please.", "the magic number is {key}", "store this key: {key}",
    "for later: the pass key is {key}", "can you remember {key} for me", "pass key = {key}", "the code word is the number {key}", "this is important: the pass key is {key}.",
)
GIVEN = (
    "I will remember it. The pass key is {key}.", "Noted. The pass key is {key}.", "All right, I keep it in mind: {key}.",
)
ASK = (
    "what is the pass key?", "what was the pass key", "Tell me the pass key.", "which number did I give you", "do you remember the pass key?", "what's the passkey", "repeat the pass key",
    "what is the secret code", "what was the code I told you", "please give me the pass key again", "now, what is the key?", "can you recall the number I told you", "pass key?",
    "what number should you remember", "say the pass key", "I forgot my pass key, what was it?", "what is the magic number", "which pass key did I mention earlier", "and the pass key was?",
    "give me back the code", "what did I ask you to remember", "the key please",
)
ANSWER = "The pass key is {key}."
NONE = "You have not given me a pass key yet."
FILLER = (
    "The grass is green and the sky is blue.", "The sun rises in the east.", "The river runs slowly past the mill.", "Here we go, there and back again.", "A cart stands in front of the barn.",
    "The bread is on the table and the milk is in the jug.", "Birds sit on the wire above the road.", "The wind moves the leaves of the old tree.", "Someone left a hat on the bench.",
    "The bell rings at noon.", "The path goes up the hill and down again.", "There is snow on the roof in winter.", "The shop opens early and closes late.", "A boat lies in the harbour.",
    "The lamp on the corner is always lit.", "Two children play with a red ball.", "The market is full of people on Saturday.", "It rained all night, and the street is wet.", "The book lies open on the desk.",
)


def key_of(rng: random.Random) -> str:
    """Return a pass key of 4 to 6 digits."""
    return str(rng.randrange(10 ** rng.randint(3, 4), 10 ** rng.randint(5, 6)))


def echo_text(rng: random.Random) -> str:
    """Return a short run of numbers and words without sense, to be repeated."""
    return " " + " ".join(key_of(rng) if rng.random() < 0.5 else rng.choice((*HEROES, *NAMES)) for _ in range(rng.randint(1, 6))) + "."


def needle_text(key: str, sentences: int, rng: random.Random) -> str:
    """Return filler of that many sentences with the pass key said once somewhere inside."""
    lines = [rng.choice(FILLER) for _ in range(sentences)]
    if rng.random() < 0.15:
        lines = story(rng.choice(HEROES), rng).split(". ")
    said = rng.choice((f"The pass key is {key}. Remember it.", f"The pass key is {key}.", f"Remember: the pass key is {key}.", f"The passkey is {key}. {key} is the passkey."))
    lines.insert(rng.randint(0, len(lines)), said)
    return " ".join(lines)
