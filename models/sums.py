"""Sums: the data the adder learns from, and the part of it that it never sees.

A sum is a pair (a, b), each 0 to 999 without leading zeros, written "a+b=" and answered "c". A pair
is held out of training by a keyed hash of its two operands whatever their order, so if "12+7=" is
held out, "7+12=" is too. Neither the training seed nor the machine changes the split.

    1,000,000 pairs, about one in 20 of them held out
    held_out_sums(1000)    the sums that every reported rate is measured on
"""

import hashlib
import itertools
import random
from collections.abc import Iterator

Sum = tuple[int, int]

MAX_DIGITS = 3
HELD_OUT_ONE_IN = 20
SPLIT_KEY = b"adder-1"


def prompt(pair: Sum) -> str:
    """Write the sum as the model reads it: "128+256="."""
    return f"{pair[0]}+{pair[1]}="


def answer(pair: Sum) -> str:
    """Write what the model must generate before its end token: "384"."""
    return str(sum(pair))


def is_held_out(pair: Sum) -> bool:
    """Tell whether training must skip this pair, in either order."""
    low, high = sorted(pair)
    digest = hashlib.blake2b(f"{low}+{high}".encode(), digest_size=8, key=SPLIT_KEY).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0


def draw_sums(rng: random.Random) -> Iterator[Sum]:
    """Draw pairs for ever, half of them uniform, half with the digit counts drawn first.

    Uniform numbers alone would be 90 % of three digits, and "2+2=" would stay a rarity.
    """
    while True:
        operand = _uniform_number if rng.random() < 0.5 else _uniform_digits
        yield operand(rng), operand(rng)


def training_sums(seed: int) -> Iterator[Sum]:
    """Draw the pairs to train on, none of them held out."""
    return itertools.filterfalse(is_held_out, draw_sums(random.Random(seed)))


def held_out_sums(count: int) -> list[Sum]:
    """Return the first `count` distinct held-out pairs, always the same ones in the same order."""
    distinct: dict[Sum, None] = {}
    pairs = filter(is_held_out, draw_sums(random.Random(0)))
    while len(distinct) < count:
        distinct[next(pairs)] = None
    return list(distinct)


def _uniform_number(rng: random.Random) -> int:
    return _below(rng, 10**MAX_DIGITS)


def _uniform_digits(rng: random.Random) -> int:
    return _below(rng, 10 ** (1 + _below(rng, MAX_DIGITS)))


def _below(rng: random.Random, bound: int) -> int:
    """Draw from [0, bound) by `random()`, the one method Python promises to keep reproducible."""
    return int(rng.random() * bound)
