"""Random numbers that depend on a key alone: no generator has a state to save."""

from __future__ import annotations

import hashlib

import torch


def generator_for(*key: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose state depends on the key alone, unrelated to that of any other key."""
    return torch.Generator(device).manual_seed(_digest(key))


def draw_below(limit: int, *key: str | int) -> int:
    """A whole number from 0 to limit - 1 that depends on the key alone."""
    return _digest(key) % limit


def _digest(key: tuple[str | int, ...]) -> int:
    """The hash of a key, as a whole number of 63 bits."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") >> 1


def uniform(rng: torch.Generator, low: float, high: float) -> float:
    """Draw one number in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=rng))


def happens(rng: torch.Generator, probability: float) -> bool:
    """Draw True with the given probability, else False."""
    return float(torch.rand((), generator=rng)) < probability
