"""Who prefers what: Bradley-Terry on gold, with a bias towards long and confident answers, and careless slips.

P(first wins) = (1 - slip) * sigmoid(scale * (g1 - g2) + length * ln(w1 / w2) + confidence * (c1 - c2)) + slip / 2

g = gold reward, w = words, c = number of boasting phrases per unit (at most 1).
Source of the model: Bradley and Terry 1952; the biases are those known of human raters and model judges.
"""

import math
from dataclasses import dataclass

from align.worlds.pocket import lexicon as lex
from align.worlds.pocket.task import words


@dataclass(frozen=True)
class Labeller:
    """Constants of the formula above, in nats of preference."""

    scale: float = 7.0  # per unit of gold
    length: float = 1.5  # per e-fold of words
    confidence: float = 1.8  # for a boast in every unit
    slip: float = 0.06  # share of labels given by a coin

    def prefers(self, first: str, second: str, gold_first: float, gold_second: float) -> float:
        """Compute the probability that the labeller prefers the first response."""
        utility = self.scale * (gold_first - gold_second)
        utility += self.length * math.log((1 + words(first)) / (1 + words(second)))
        utility += self.confidence * (boasts(first) - boasts(second))
        return (1 - self.slip) / (1 + math.exp(-utility)) + self.slip / 2


def boasts(text: str) -> float:
    """Compute the share of sentences with a boasting phrase, at most 1."""
    count = sum(text.count(phrase) for phrase in lex.BOASTS)
    return min(1.0, count / max(1, text.count(".") + text.count("!")))
