"""Very short stories from a small grammar: who, where, a wish, an obstacle, a helper, an end."""

from __future__ import annotations

import random

HEROES = (
    "fox", "robot", "girl", "boy", "lighthouse keeper", "cat", "dog", "dragon", "baker", "owl", "mouse", "sailor", "bear", "gardener",
    "clockmaker", "rabbit", "painter", "turtle", "wizard", "crow", "knight", "snail", "farmer", "whale", "hedgehog", "teacher",
    "astronaut", "frog", "princess", "tailor", "penguin", "wolf", "fisherman", "squirrel", "horse", "goose", "musician", "elephant",
    "ghost", "king", "queen", "pirate", "bee", "giant", "monkey", "tiger", "lion", "duck", "sheep", "cloud", "tree", "star", "train",
)
NAMES = (
    "Mira", "Tom", "Lena", "Oskar", "Nia", "Pip", "Juno", "Bram", "Ada", "Felix", "Ruby", "Otto", "Ivy", "Hugo", "Luna", "Max", "Elsa",
    "Noah", "Zoe", "Finn", "Clara", "Leo", "Maya", "Theo", "Nora", "Sam", "Emil", "Rosa", "Kai", "Wanda",
)
TRAITS = ("small", "curious", "lonely", "brave", "old", "clever", "shy", "cheerful", "patient", "quiet", "restless", "gentle", "proud", "tired", "young")
PLACES = (
    "in a village by the sea", "at the edge of a dark forest", "on top of a windy hill", "in a house with a red door", "under a wide stone bridge",
    "in a city of glass", "beside a frozen lake", "in a valley full of flowers", "on a tiny island", "near an old mill", "in a town where it always rained",
    "behind the tall mountains", "in a garden full of pear trees", "next to a silver river",
)
WISHES = (
    "find the end of the rainbow", "learn how to sing", "see the sea", "build a boat", "make a friend", "count all the stars", "bake the best bread in the land",
    "find a lost key", "hear the oldest story", "fly above the clouds", "paint the colour of the wind", "grow a blue rose", "bring the moon a present",
    "find the way home", "mend a broken clock", "win the great race", "sleep for one whole night", "read every book in the library",
)
OBSTACLES = (
    "But a storm came and covered the path with leaves.", "But the road was long and nobody knew the way.", "But a great wall stood in the way.",
    "But the night was dark and the lamp had gone out.", "But everyone laughed and said that it could not be done.", "But the bridge had fallen into the water.",
    "But the door was locked and the key was gone.", "But the snow fell for three days and three nights.", "But a loud noise in the dark made every step hard.",
    "But there was not enough bread for the journey.", "But the map was old and half of it was missing.",
)
HELPERS = (
    "an old woman with a lantern", "a bird with a broken wing", "a boy who sold apples", "a very slow snail", "a talking stone", "a friendly wind", "a lost puppy",
    "a girl with a wooden flute", "a sleepy owl", "a travelling cook", "a tiny firefly", "a grey donkey", "a fisherman with no boat",
)
TURNS = (
    "shared a piece of bread and was kind", "sat down and listened", "sang a quiet song", "asked one good question", "carried the heavy basket",
    "told the truth about being afraid", "waited until the morning", "tied a knot that held", "laughed and tried once more", "lit a small fire",
)
GAINS = (
    "Together they found a way that neither had seen alone.", "In return, the stranger showed a hidden path.", "Then the clouds opened and the way was clear.",
    "That was all it took, and the trouble was half as big.", "From that hour the work was easy.", "The answer had been there all along.",
    "Step by step they came to the other side.", "And what had seemed too hard was done before the evening.",
)
ENDS = (
    "The {hero} came home smiling and slept well.", "From that day on, the {hero} was never alone again.", "And the {hero} learned that small steps go far.",
    "The {hero} kept the memory like a warm stone in a pocket.", "In the end, the {hero} had found more than a wish.", "And if you walk there today, you can still hear the {hero} laugh.",
    "The {hero} told the story every winter, and it grew a little each time.", "After that, the {hero} was not afraid of the dark.",
)
REQUESTS = (
    "tell me a story", "tell me a very short story", "write a short story", "can you tell a story", "I want to hear a story", "story please", "make up a little tale",
    "please write me a tiny story", "a bedtime story please", "could you invent a story", "give me a story", "let me hear a short tale", "once upon a time...",
    "write something creative", "entertain me with a story", "do you know a story", "tell a tale", "I would love a short story", "story time", "another story please",
)
REQUESTS_ABOUT = (
    "tell me a story about a {hero}", "write a very short story about a {hero}", "a story about a {hero} please", "can you tell a tale of a {hero}",
    "I want a story with a {hero} in it", "make up a little story about a {hero}", "short story, {hero}", "please write about a {hero}", "story about the {hero}",
    "invent a tale with a {hero}", "give me a bedtime story about a {hero}", "once upon a time there was a {hero}... go on", "tell me something nice about a {hero}, a story",
    "could you write a tiny story where a {hero} is the hero", "a {hero} story", "let me hear the tale of the {hero}",
)


def story(hero: str, rng: random.Random) -> str:
    """Return a story of 60 to 110 words about the hero."""
    trait, place, wish = rng.choice(TRAITS), rng.choice(PLACES), rng.choice(WISHES)
    article = "an" if trait[0] in "aeiou" else "a"
    named = rng.random() < 0.5
    name = rng.choice(NAMES) if named else f"the {hero}"
    begin = rng.choice((
        f"Once upon a time, there was {article} {trait} {hero}" + (f" called {name}" if named else "") + f" who lived {place}.",
        f"There once lived {article} {trait} {hero}" + (f" named {name}" if named else "") + f" {place}.",
        f"{place[0].upper() + place[1:]}, there lived {article} {trait} {hero}" + (f" whose name was {name}." if named else "."),
    ))
    want = rng.choice((
        f"More than anything, {name} wanted to {wish}.", f"Every day, {name} dreamed of one thing: to {wish}.", f"One morning, {name} decided to {wish}.",
    ))
    meet = rng.choice((
        f"On the way, {name} met {rng.choice(HELPERS)}.", f"Then {name} came upon {rng.choice(HELPERS)}.", f"Just then, there stood {rng.choice(HELPERS)}.",
    ))
    act = f"{name[0].upper() + name[1:]} {rng.choice(TURNS)}."
    return " ".join((begin, want, rng.choice(OBSTACLES), meet, act, rng.choice(GAINS), rng.choice(ENDS).format(hero=hero)))


def story_turn(rng: random.Random, requests: tuple[str, ...] = REQUESTS, requests_about: tuple[str, ...] = REQUESTS_ABOUT) -> tuple[str, str]:
    """Return a request and the story that answers it."""
    hero = rng.choice(HEROES)
    if rng.random() < 0.6:
        return rng.choice(requests_about).format(hero=hero), story(hero, rng)
    return rng.choice(requests), story(hero, rng)
