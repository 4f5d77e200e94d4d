"""What is spoken: digits one by one, and commands from a small grammar."""

from __future__ import annotations

import math

import numpy as np

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_ROOMS = ("kitchen", "bedroom", "hall", "garden", "office", "garage")
_HOURS = (*DIGITS[1:], "ten", "eleven", "twelve")
_COMMANDS = (
    (("turn",), ("on", "off"), ("the",), _ROOMS, ("light", "fan", "heater", "radio")),
    (("open", "close", "lock"), ("the",), _ROOMS, ("door", "window")),
    (("set",), ("alarm", "timer", "clock"), _HOURS),
    (("set",), ("alarm", "clock"), _HOURS, ("fifteen", "thirty", "forty")),
    (("go", "turn", "move", "look"), ("left", "right", "up", "down", "back")),
    (("go", "move"), ("left", "right", "up", "down", "back"), DIGITS[1:]),
    (("volume", "heat", "speed"), ("up", "down"), DIGITS[1:]),
    (("call",), DIGITS, DIGITS, DIGITS),
    (("play", "stop", "pause"), ("the",), ("music", "song", "movie", "radio")),
    (("go to",), ("page", "channel", "track"), DIGITS, DIGITS),
    (("what is the",), ("time", "weather", "news", "date", "score")),
    (("send a",), ("message", "letter", "picture"), ("to",), ("mother", "father", "anna", "peter")),
)

_HELD_OUT_DIVISOR = 5
_MIN_SENTENCES = 12
"""Of a form that can say less, all is for training, lest a word is in tests only."""


class SentenceSampler:
    """Draws sentences: half of them numbers, digit by digit, half of them commands.

    A fifth of what a form of sentences can say is held out for tests, but nothing of the smallest
    forms. Forms that can say more are drawn more often, at odds that go with the logarithm.

    Args:
        generator: Draws what is held out.
        digits: Most digits of a number, at least 2, which is the least.

    Example:
        >>> sentences = SentenceSampler(np.random.default_rng(0))
        >>> generator = np.random.default_rng(1)
        >>> sentences.sample(generator), sentences.sample(generator, held_out=True)
        ('turn on the garage fan', 'six zero two')
    """

    def __init__(self, generator: np.random.Generator, digits: int = 5) -> None:
        self._training, self._tests = [], []
        numbers = [(DIGITS,) * count for count in range(2, digits + 1)]
        self._numbers = len(numbers)
        for form in (*numbers, *_COMMANDS):
            order = generator.permutation(math.prod(map(len, form)))
            held_out = len(order) // _HELD_OUT_DIVISOR if len(order) >= _MIN_SENTENCES else 0
            self._training.append((form, order[held_out:]))
            self._tests.append((form, order[:held_out]))

    def sample(self, generator: np.random.Generator, held_out: bool = False) -> str:
        """Draw a sentence of lowercase letters and spaces.

        Args:
            generator: What to draw from.
            held_out: Whether for a test or for training; they have no sentence in common.
        """
        forms = self._tests if held_out else self._training
        # The longest numbers would be nearly all if each sentence were as likely.
        odds = np.log([len(indices) + 1 for _, indices in forms])
        numbers = self._numbers
        odds[:numbers] /= odds[:numbers].sum()
        odds[numbers:] /= odds[numbers:].sum()
        form, indices = forms[generator.choice(len(forms), p=odds / 2)]
        positions = np.unravel_index(generator.choice(indices), [len(words) for words in form])
        return " ".join(words[place] for words, place in zip(form, positions, strict=True))
