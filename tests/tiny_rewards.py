"""What the tiny runs of the end-to-end tests are rewarded for."""

import os
import time


def vowels(prompt, completion, row):
    """Share of vowels: learnable within a few steps by a model that knows nothing."""
    return sum(letter in "aeiou" for letter in completion.lower()) / max(len(completion), 1)


def fragile(prompt, completion, row):
    """Fails in every way a user's function can, each for one prompt of the data."""
    if row["answer"] == "raise":
        raise KeyError("no such thing")
    if row["answer"] == "nan":
        return float("nan")
    if row["answer"] == "hang":
        time.sleep(3600)
    if row["answer"] == "die":
        os._exit(3)
    return 1.0


class Nag:
    """An environment that answers every turn."""

    def __init__(self, row, **arguments):
        self.answer = row["answer"]

    def step(self, text):
        return [{"role": "user", "content": "More about " + self.answer}]


def slow(prompt, completion, row):
    time.sleep(0.3)
    return 0.5
