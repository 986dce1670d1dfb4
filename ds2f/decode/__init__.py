"""From logits to text."""

from ds2f.decode.greedy import Hypothesis, greedy

__all__ = ["Hypothesis", "greedy"]
