"""Costs by formula, and the tables that describe options, runs and columns."""

from __future__ import annotations

from dataclasses import fields

import pytest

from chunkkv_lib.report import arithmetic, commands
from chunkkv_lib.report.records import METRICS
from chunkkv_lib.runs import Parameters, profiles

LLAMA = arithmetic.ARCHITECTURES["Meta-Llama-3-8B-Instruct"]


def test_the_paper_model_has_its_published_number_of_weights():
    """8.03 billion, as its card says; norms are left out here."""
    assert LLAMA.weights == pytest.approx(8.03e9, rel=0.001)


def test_a_prefill_by_hand():
    """One layer, one head of 2 entries, hidden 2, feed-forward 4, three tokens."""
    tiny = arithmetic.Architecture(10, 2, 4, 1, 1, 1, 2, tied=True)
    assert tiny.matrix_weights == 4 * 2 * 2 + 3 * 2 * 4 and tiny.weights == tiny.matrix_weights + 20
    assert arithmetic.prefill_flops(tiny, 3) == 2 * 40 * 3 + 2 * 9 * 2
    assert arithmetic.analysis_flops(tiny, 3) == arithmetic.prefill_flops(tiny, 3) + 9 * 2


def test_every_option_and_every_profile_has_its_row():
    options = commands.options_table("tab-options")
    for one in fields(Parameters):
        assert f"| `--{one.name.replace('_', '-')}`" in options and one.metadata["help"] in options
    assert "`--causal`, `--no-causal` | on |" in options and "None" not in options
    assert all(f"| `{name}` |" in commands.profiles_table() for name in profiles())


def test_every_metric_is_explained():
    assert all(commands.meaning(name) != "–" for name in METRICS) and commands.meaning("nonsense") == "–"
