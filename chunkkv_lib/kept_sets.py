"""Several methods' kept sets of one layer as masks, made once and shared by all metrics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .compressors import check_kept
from .errors import InputError


class KeptSets:
    """The kept sets of M methods in one layer.

    Sets of the same shape are handled together, in one operation each: on a GPU many small ones would cost more than
    the arithmetic.

    kepts   one [S, b] int64 per method, ascending; S and b may differ between methods
    n       prompt tokens
    check   False trusts the sets; looking at their values makes the CPU wait for a GPU
    raises InputError: a set that is not one of n positions.
    """

    def __init__(self, kepts: Sequence[Tensor], n: int, check: bool = True) -> None:
        self.kepts, self.n = list(kepts), n
        if check:
            for kept in self.kepts:
                check_kept(kept, n)
        shapes: dict[tuple[int, ...], list[int]] = {}
        for i, kept in enumerate(self.kepts):
            shapes.setdefault(tuple(kept.shape), []).append(i)
        self._members = list(shapes.values())
        #: Per shape the methods' positions [m, S, b] and masks [m, S, n] bool; `in_order` undoes the grouping.
        self.groups = [self._group([self.kepts[i] for i in members]) for members in self._members]
        self._masks: dict[int, Tensor] = {}
        self._per_head: dict[tuple[int, torch.dtype], Tensor] = {}

    def __len__(self) -> int:
        return len(self.kepts)

    def _group(self, kepts: list[Tensor]) -> tuple[Tensor, Tensor]:
        kept = torch.stack(kepts)
        return kept, torch.zeros(*kept.shape[:2], self.n, dtype=torch.bool, device=kept.device).scatter_(2, kept, True)

    def in_order(self, results: list[Tensor], dim: int = 0) -> Tensor:
        """One result per group, with the group's methods along `dim` -> one for all methods in their order."""
        if len(results) == 1:
            return results[0]
        flat = [i for members in self._members for i in members]
        order = torch.tensor([flat.index(i) for i in range(len(self))], device=results[0].device)
        return torch.cat(results, dim).index_select(dim, order)

    def masks(self, heads: int) -> Tensor:
        """Masks of all methods: [M, S, n] bool, where S is that of their sets if it is the same for all, else `heads`.

        raises InputError: sets that do not divide over the heads.
        """
        if heads not in self._masks:
            for kept in self.kepts:
                if kept.shape[0] == 0 or heads % kept.shape[0]:
                    raise misfit(kept.shape[0], f"{heads} query heads")
            masks = [mask for _, mask in self.groups]
            if len({mask.shape[1] for mask in masks}) > 1:
                masks = [mask.repeat_interleave(heads // mask.shape[1], 1) for mask in masks]
            self._masks[heads] = self.in_order(masks)
        return self._masks[heads]

    def per_head(self, heads: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Masks of the sets that each of `heads` heads reads, as zeros and ones: [M, heads, n]. Errors as above."""
        if (heads, dtype) not in self._per_head:
            masks = self.masks(heads)
            self._per_head[heads, dtype] = masks.to(dtype).repeat_interleave(heads // masks.shape[1], 1)
        return self._per_head[heads, dtype]

    def shared(self, other: KeptSets) -> list[Tensor]:
        """Positions that each set has in common with the same method's in `other`: [m, S] for every group.

        other  sets of the same shapes, for instance of the layer below
        """
        return [(mine & theirs).sum(-1) for (_, mine), (_, theirs) in zip(self.groups, other.groups)]

    def to(self, device: torch.device) -> KeptSets:
        """The same on another device; itself if it is there."""
        if self.groups[0][1].device == device:
            return self
        return KeptSets([kept.to(device) for kept in self.kepts], self.n, check=False)


def jaccard(a: Tensor, b: Tensor) -> Tensor:
    """Positions in both masks over positions in either: [..., n] bool -> [...]."""
    both = (a & b).sum(-1)
    return both / (a.sum(-1) + b.sum(-1) - both)


def misfit(sets: int, heads: str) -> InputError:
    """The error for kept sets that do not fit a layer's heads."""
    return InputError(
        f"{sets} kept sets do not fit {heads}; there must be one per KV head, one per query head, or a single one. "
        "Pass the kept set of the same layer and model."
    )
