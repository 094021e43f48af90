"""Costs by formula, and the tables that describe options, runs and columns."""

from __future__ import annotations

from dataclasses import fields

import pytest

from chunkkv_lib.report import arithmetic, commands
from chunkkv_lib.report.records import METRICS
from chunkkv_lib.runs import Parameters, profiles


def test_weights_and_a_prefill_by_hand():
    """The paper's model has 8.03 billion, as its card says; norms are left out here. The other has one layer, one head
    of 2 entries, hidden 2, feed-forward 4, and reads three tokens.
    """
    assert arithmetic.ARCHITECTURES["Meta-Llama-3-8B-Instruct"].weights == pytest.approx(8.03e9, rel=0.001)
    tiny = arithmetic.Architecture(10, 2, 4, 1, 1, 1, 2, tied=True)
    assert tiny.matrix_weights == 4 * 2 * 2 + 3 * 2 * 4 and tiny.weights == tiny.matrix_weights + 20
    assert arithmetic.prefill_flops(tiny, 3) == 2 * 40 * 3 + 2 * 9 * 2
    assert arithmetic.analysis_flops(tiny, 3) == arithmetic.prefill_flops(tiny, 3) + 9 * 2


def test_every_option_every_profile_and_every_metric_is_explained():
    options = commands.options_table("tab-options")
    for one in fields(Parameters):
        assert f"| `--{one.name.replace('_', '-')}`" in options and one.metadata["help"] in options
    assert "`--causal`, `--no-causal` | on |" in options and "None" not in options
    assert all(f"| `{name}` |" in commands.profiles_table() for name in profiles())
    assert all(commands.meaning(name) != "–" for name in METRICS) and commands.meaning("nonsense") == "–"
