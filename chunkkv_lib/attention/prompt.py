"""One layer's prompt attention, each piece computed once and shared by the methods that read it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import InputError
from .checks import check_finite, check_heads, check_prompt
from .column_sums import column_sums, uncausal_column_sums
from .rows import attention_logits, attention_rows


class PromptAttention:
    """The pieces of a prompt's attention that scores and metrics are made of, each computed at most once.

    queries          [Hq, n, d], the prompt's, after RoPE
    keys             [Hkv, n, d], the prompt's, after RoPE
    lse              [Hq, n] log-sum-exp of the causal logits, where the attention kernel already gave it
    probe_queries    [Hq, m, d], queries that will read the cache, where known (the answer's)
    probe_positions  [m] their absolute positions; None: behind the prompt, so that they see all of it
    finite           True: the caller knows that there is no NaN or infinity, or finds out later. To look would make the
                     CPU wait for a GPU
    raises InputError: shapes that do not fit, an empty prompt, NaN or infinity.
    """

    def __init__(
        self,
        queries: Tensor,
        keys: Tensor,
        lse: Tensor | None = None,
        probe_queries: Tensor | None = None,
        probe_positions: Tensor | None = None,
        finite: bool = False,
    ) -> None:
        check_prompt(queries, keys, finite)
        if probe_queries is not None:
            check_heads(probe_queries, keys)
            if not finite:
                check_finite("probe queries", probe_queries)
        self.queries, self.keys, self.lse = queries, keys, lse
        self.probe_queries, self.probe_positions = probe_queries, probe_positions
        self._pieces: dict[tuple, Tensor] = {}

    @property
    def n(self) -> int:
        """Prompt tokens."""
        return self.keys.shape[1]

    def window_rows(self, window: int) -> Tensor:
        """Attention of the last `window` queries, causal inside the window: [Hq, window, n]."""
        return self._once(("rows", window), lambda: attention_rows(*self._window(window)))

    def window_logits(self, window: int) -> Tensor:
        """Scaled logits of the last `window` queries, -inf where a key is not visible: [Hq, window, n]."""
        return self._once(("logits", window), lambda: attention_logits(*self._window(window)))

    def column_sums(self) -> Tensor:
        """Attention received by each key from all prompt queries: [Hq, n]."""
        return self._once(("columns",), lambda: column_sums(self.queries, self.keys, self.lse))

    def uncausal_column_sums(self, window: int) -> Tensor:
        """The historical non-causal variant of `column_sums`: [Hq, n]."""
        return self._once(("uncausal", window), lambda: uncausal_column_sums(self.queries, self.keys, window))

    def probe_rows(self) -> Tensor:
        """Attention of the probe queries over the prompt's keys: [Hq, m, n]."""
        return self._once(("probe",), lambda: self.probe_logits().softmax(-1))

    def probe_logits(self) -> Tensor:
        """Scaled logits of the probe queries over the prompt's keys: [Hq, m, n]."""
        if self.probe_queries is None:
            raise InputError(
                "no probe queries were given, but this needs them. Build PromptAttention(queries, keys, "
                "probe_queries=...) with the queries that will read the cache, and pass it as `attention`."
            )
        return self._once(
            ("probe logits",), lambda: attention_logits(self.probe_queries, self.keys, self.probe_positions)
        )

    def check_window(self, window: int) -> None:
        """Raise InputError for a window that is longer than the prompt, or empty."""
        if not 1 <= window <= self.n:
            raise InputError(
                f"window={window} does not fit a prompt of {self.n} tokens; it must lie between 1 and {self.n}. "
                "Lower the window or pass a longer prompt."
            )

    def _window(self, window: int) -> tuple[Tensor, Tensor, Tensor]:
        self.check_window(window)
        positions = torch.arange(self.n - window, self.n, device=self.keys.device)
        return self.queries[:, self.n - window :], self.keys, positions

    def _once(self, name: tuple, compute: Callable[[], Tensor]) -> Tensor:
        if name not in self._pieces:
            self._pieces[name] = compute()
        return self._pieces[name]
