"""General text: short generated stories about people and places, disjoint from every task (to measure forgetting)."""

import random

from align.worlds.pocket import lexicon as lex
from align.worlds.pocket.task import pick, split

_WHO = (
    "The farmer", "The teacher", "A sailor", "The old baker", "My uncle", "The doctor", "A young painter", "The king",
)  # fmt: skip
_DID = (
    "walked along the river", "looked at the hills", "sat near the fire", "waited for the rain", "crossed the bridge",
    "sang in the garden", "slept under a tree", "counted the boats", "told a story", "carried a lamp",
)  # fmt: skip
_WHEN = ("in the morning", "at noon", "before dinner", "in the evening", "last night", "in winter", "on the way home")
_WHY = (
    "because the road was long", "because the wind was cold", "while the town was quiet", "and nobody said a word",
    "and the birds flew away", "as the market closed", "while the children played",
)  # fmt: skip
_THEN = ("Later", "Then", "After a while", "In the end", "Soon")
_LAST = (
    "the clouds moved on", "the door stayed open", "the music stopped", "the water was still", "the light went out",
    "the village was silent", "the boats came back", "the story was over",
)  # fmt: skip


def sentence(rng: random.Random) -> str:
    """Write one sentence of general text."""
    who = pick(rng, lex.NAMES) if rng.random() < 0.3 else pick(rng, _WHO)
    if rng.random() < 0.3:
        return f"{pick(rng, _THEN)}, {pick(rng, _LAST)}."
    tail = pick(rng, _WHEN if rng.random() < 0.5 else _WHY)
    return f"{who} {pick(rng, _DID)} {tail}."


def text(rng: random.Random, sides: frozenset[str]) -> str:
    """Write a paragraph of three to six sentences that `split` assigns to one of `sides`."""
    while True:
        paragraph = " ".join(sentence(rng) for _ in range(rng.randint(3, 6)))
        if split(paragraph) in sides:
            return paragraph
