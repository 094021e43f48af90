"""Records to matplotlib figures: one file per family, one look for all (`style`).

Every function takes tables or tensors and returns a `Figure` that pyplot does not know of, so nothing stays
behind; `show` ends a notebook cell, `save` writes a file, and both give the same bytes for the same figure.
"""

from chunkkv_lib.report.figures.averages import gaps_figure, table_11_figure
from chunkkv_lib.report.figures.damage import calibration_figure, damage_scatter
from chunkkv_lib.report.figures.definitions import definitions_figure
from chunkkv_lib.report.figures.layers import figure_6, layer_differences
from chunkkv_lib.report.figures.setting import budget_memory, kv_cache_bytes, sequence_lengths
from chunkkv_lib.report.figures.style import LOOKS, look, save, show, svg
from chunkkv_lib.report.figures.tokens import kept_raster, token_strip

__all__ = [
    "LOOKS",
    "budget_memory",
    "calibration_figure",
    "damage_scatter",
    "definitions_figure",
    "figure_6",
    "gaps_figure",
    "kept_raster",
    "kv_cache_bytes",
    "layer_differences",
    "look",
    "save",
    "sequence_lengths",
    "show",
    "svg",
    "table_11_figure",
    "token_strip",
]
