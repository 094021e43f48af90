"""What hyper-parameters change: metrics and damage along the axes of a sensitivity run, or across several runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ..errors import InputError
from ..runs import Parameters
from ..runs.variants import along
from .records import METHODS, METRICS, PRIMARY, damage, layer_values, sequence_means
from .statistics import interval
from .style import GREY, INK, headline, label_ends, line_panel, panels, say_start, styled

OUTCOME = "nll_increase"


def variant_means(run: Any, metric: str) -> pd.DataFrame:
    """The metric's mean over layers, or an outcome: a row per sequence, a column per variant ("SnapKV, kernel 15")."""
    return sequence_means(_records(run, metric), metric)


def axis_means(run: Any, field: str) -> pd.DataFrame:
    """Both metrics and the damage for every value of one hyper-parameter, an axis of `runs.variants.AXES`.

    run     of a profile with `variants`
    return  columns metric, method, <field>, estimate, low, high, n; in the order of the axis
    """
    if run.parameters.variants is None:
        remedy = "measure some: python -m chunkkv_lib measure --profile sensitivity."
        raise InputError(f"run {run.name!r} has no variants; {remedy}")
    base = run.parameters.methods_alone
    found = [_means(along(_records(run, metric), field, base), field, metric) for metric in (*PRIMARY, OUTCOME)]
    return pd.concat(found, ignore_index=True)


def across_runs(
    runs: Mapping[object, Any], field: str, metrics: Sequence[str] = PRIMARY, methods: Iterable[str] = METHODS
) -> pd.DataFrame:
    """The same table from several runs, on the sequences that all of them measured; runs: value of `field` -> run.

    They must not differ in another parameter than `field`, the methods and the number of sequences.
    """
    plain = {"per_category": 1, "methods": METHODS, "variants": None, field: getattr(Parameters(), field)}
    settings = {value: replace(run.parameters, **plain).as_dict() for value, run in runs.items()}
    for value, one in settings.items():
        for name, first in next(iter(settings.values())).items():
            if one[name] != first:
                text = f"the run at {field}={value} has {name}={one[name]}, the first has {first}"
                raise InputError(f"{text}; compare runs that differ in {field} alone.")
    shared = set.intersection(*(set(run.sequences["sequence"]) for run in runs.values()))
    rows = []
    for value, run in runs.items():
        for metric in metrics:
            records = _records(run, metric)
            records = records[records["sequence"].isin(shared) & records["method"].isin(list(methods))]
            rows.append(_means(records.assign(**{field: value}), field, metric))
    return pd.concat(rows, ignore_index=True)


def reuse_by_layer(runs: Mapping[int, Any], metric: str, method: str) -> pd.DataFrame:
    """What sharing kept sets changes in each layer, by the number N of layers that share one; N = 1 comes first.

    return  columns reuse, layer, change: mean at N less mean at 1, over the sequences that all runs measured
    """
    values = {count: layer_values(run.records, metric, method) for count, run in runs.items()}
    shared = set.intersection(*(set(one.index) for one in values.values()))
    means = {count: one[one.index.isin(shared)].mean() for count, one in values.items()}
    changes = pd.DataFrame({count: mean - means[1] for count, mean in means.items() if count > 1})
    return changes.rename_axis("layer").reset_index().melt("layer", var_name="reuse", value_name="change")


def _records(run: Any, metric: str) -> pd.DataFrame:
    return damage(run.answer_records) if metric in (OUTCOME, "kl", "top1_agreement") else run.records


def _means(records: pd.DataFrame, field: str, metric: str) -> pd.DataFrame:
    rows = []
    for (method, value), group in records.groupby(["method", field], sort=False):
        found = interval(sequence_means(group, metric)[method])
        rows.append({"metric": metric, "method": method, field: value} | vars(found))
    return pd.DataFrame(rows)


@styled
def axis_figure(means: pd.DataFrame, field: str, label: str, subject: str, marked: object = None) -> Figure:
    """Metrics against one numeric hyper-parameter, a panel per metric and a line per method, with 95 % intervals.

    means   columns metric, method, <field>, estimate, low, high, n (`axis_means`)
    label   of the x axis, with its unit; marked: the value that the rest of the book uses
    Tokens stand on a logarithmic axis. Against the budget, on a linear one, the L1 loss has the line 1 - budget, on
    which a random choice lies.
    """
    metrics = list(means["metric"].unique())
    figure, axes = panels(len(metrics), height=2.3, sharex=True)
    for ax, metric in zip(axes, metrics, strict=True):
        mine, about = means[means["metric"] == metric].dropna(subset="estimate"), METRICS[metric]
        mine = mine.sort_values(field, kind="stable")
        ends = line_panel(ax, mine, field)
        if field == "budget" and metric == PRIMARY[0]:
            ax.plot(mine[field], 1 - mine[field], color=INK, linewidth=0.8, linestyle=":")
        if marked is not None:
            ax.axvline(marked, color=GREY, linewidth=0.8, linestyle=(0, (3, 2)), zorder=0)
        ax.set_xscale("linear" if field == "budget" else "log")
        unit = f" ({about.unit})" if about.unit else ""
        ax.set_ylabel(f"{about.short}{unit}\n{about.direction}")
        say_start(ax)
        label_ends(ax, mine.groupby("method", sort=False)[field].max(), ends, gap=0.12)
        ax.minorticks_off()
    if field != "budget":
        axes[-1].set_xticks([1, 2, 5, 10, 20, 50], [1, 2, 5, 10, 20, 50])
    axes[-1].set_xlabel(label)
    headline(figure, subject, int(means["n"].max()))
    return figure
