"""A shuffled order of any length that takes no memory: place by place, forwards from anywhere."""

from __future__ import annotations

import torch

_N_ROUNDS = 4
_WORD = 2**31 - 1


class Shuffled:
    """A bijection of ``0 .. n - 1`` onto itself, drawn by a key.

    A Feistel network over the smallest even number of bits that hold n; numbers past n are mapped
    again until they are below (Black & Rogaway 2002, "cycle walking"). A run that is resumed needs
    its place and nothing else.

    Args:
        n: Length; at most 2^62.
        key: Another one, another order.
    """

    def __init__(self, n: int, key: int) -> None:
        self.n = n
        self.half = max(1, ((n - 1).bit_length() + 1) // 2)
        generator = torch.Generator().manual_seed(key)
        self.keys = torch.randint(_WORD, (_N_ROUNDS, 2), generator=generator).tolist()

    def __call__(self, places: torch.Tensor) -> torch.Tensor:
        """Numbers (m,) at places (m,), both int64 in ``0 .. n - 1``."""
        numbers = self._once(places)
        while (outside := numbers >= self.n).any():
            numbers[outside] = self._once(numbers[outside])
        return numbers

    def _once(self, numbers: torch.Tensor) -> torch.Tensor:
        mask = 2**self.half - 1
        left, right = numbers >> self.half, numbers & mask
        for add, multiply in self.keys:
            mixed = ((right + add) & _WORD) * (multiply | 1)
            mixed = ((mixed ^ (mixed >> 29)) & _WORD) * 0x2545F491
            left, right = right, left ^ ((mixed ^ (mixed >> 31)) & mask)
        return (left << self.half) | right
