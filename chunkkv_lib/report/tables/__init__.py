"""Records to MyST tables: numbered, captioned, every column named, every number's source in its header.

Each function returns the text of a `{table}` directive; `show` hands it to a notebook cell that has the
metadata `mystnb: {markdown_format: myst}`. "–" stands for "not measured", and n beside it is then 0.
"""

from chunkkv_lib.report.records import paper_table_11
from chunkkv_lib.report.tables.averages import table_11
from chunkkv_lib.report.tables.layout import myst_table, number, p_text, show
from chunkkv_lib.report.tables.provenance import budget_text, provenance_line, versions_table
from chunkkv_lib.report.tables.signature import order_text, orders_table, signature, signature_table
from chunkkv_lib.report.tables.verdicts import (
    VERDICTS,
    Claim,
    answers_table,
    claims_table,
    correlations_table,
    significance_table,
)

__all__ = [
    "VERDICTS",
    "Claim",
    "answers_table",
    "budget_text",
    "claims_table",
    "correlations_table",
    "myst_table",
    "number",
    "order_text",
    "orders_table",
    "p_text",
    "paper_table_11",
    "provenance_line",
    "show",
    "signature",
    "signature_table",
    "significance_table",
    "table_11",
    "versions_table",
]
