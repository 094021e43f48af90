"""What a task is: a function to write, inputs to try it on, the right answer, and the answers people tend to give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Task:
    """Something a student can write.

    summary    what the function takes and returns, in one line
    reference  the library's own way: what a right answer returns
    draw       random generator -> the arguments of one round
    names      of these arguments
    tolerance  relative and absolute; 0 for whole numbers, which must agree exactly
    rounds     how many inputs a check tries; more where a mistake shows on few of them
    mistakes   explanation -> a function that makes this mistake; told when a wrong answer equals what it returns
    """

    summary: str
    reference: Callable
    draw: Callable[[torch.Generator], tuple]
    names: tuple[str, ...]
    tolerance: float = 1e-4
    rounds: int = 5
    mistakes: Mapping[str, Callable] = field(default_factory=dict)
