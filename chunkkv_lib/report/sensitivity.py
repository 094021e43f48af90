"""What hyper-parameters change: metrics and damage along the axes of a sensitivity run, or across several runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ..errors import InputError, unknown
from ..runs import Parameters
from ..runs.variants import Variant, along, own_value, variants
from .records import METHODS, METRICS, PRIMARY, choose, damage, sequence_means
from .statistics import Interval, interval
from .style import GREY, headline, label_ends, line_panel, look, panels, say_start, styled

OUTCOME = "nll_increase"


def axis_values(run: Any, field: str, metric: str, method: str, category: str | None = None) -> pd.DataFrame:
    """One method along one hyper-parameter: a row per sequence, a column per value; means over layers.

    raises  InputError: as `axis_means`; a method that is not varied on this axis.
    """
    records = _along(run, field, metric, category)
    if method not in set(records["method"]):
        raise unknown("method on this axis", method, records["method"].unique())
    # The values of the axis stand where the methods usually do, so documents come along.
    return sequence_means(records[records["method"] == method].assign(method=lambda rows: rows[field]), metric)


def axis_gap(
    run: Any, field: str, metric: str, method: str, value: object, against: object, category: str | None = None
) -> Interval:
    """What one value of a hyper-parameter gives over another, paired by sequence: mean of value - against."""
    values = axis_values(run, field, metric, method, category)
    for one in (value, against):
        if one not in values:
            raise unknown(f"value of {field}", one, map(str, values))
    return interval(values[value] - values[against])


def axis_best(run: Any, field: str, metric: str, method: str, category: str | None = None) -> list:
    """The value at which a method's mean is best, first, and after it all that are not distinguishable from it."""
    values = axis_values(run, field, metric, method, category)
    best = (METRICS[metric].sign * values.mean()).idxmax()
    return [best, *(one for one in values if one != best and not interval(values[one] - values[best]).excludes(0))]


def axis_means(
    run: Any, field: str, metrics: Sequence[str] = (*PRIMARY, OUTCOME), category: str | None = None
) -> pd.DataFrame:
    """Means over layers, then over sequences, for every value of one hyper-parameter.

    run      of a profile with `variants`
    field    an axis of `runs.variants.AXES`
    return   columns metric, method, <field>, estimate, low, high, n; in the order of the axis
    raises   InputError: the run has no variants; an unknown field or metric.
    """
    found = [_means(_along(run, field, metric, category), field, metric) for metric in metrics]
    return pd.concat(found, ignore_index=True)


def _along(run: Any, field: str, metric: str, category: str | None) -> pd.DataFrame:
    listed = _variants(run)
    return along(_records(run, metric, category), listed, field, run.parameters.methods_alone)


def _variants(run: Any) -> list[Variant]:
    settings = run.parameters
    if settings.variants is None:
        raise InputError(
            f"run {run.name!r} has no variants; measure some: python -m chunkkv_lib measure --profile sensitivity."
        )
    return variants(settings.variants, settings.methods_alone)[0]


def axis_base(run: Any, field: str) -> object:
    """The value at which a sensitivity run's unchanged methods stand on an axis."""
    base = run.parameters.methods_alone
    return own_value(next(method for method in base.values() if field == "preset" or hasattr(method, field)), field)


def _records(run: Any, metric: str, category: str | None) -> pd.DataFrame:
    records = damage(run.answer_records) if metric in ("nll_increase", "kl", "top1_agreement") else run.records
    return choose(records, category)


def _means(records: pd.DataFrame, field: str, metric: str) -> pd.DataFrame:
    rows = []
    for (method, value), group in records.groupby(["method", field], sort=False):
        found = interval(sequence_means(group, metric)[method])
        rows.append({"metric": metric, "method": method, field: value} | vars(found))
    return pd.DataFrame(rows)


# --- runs that differ in one parameter ----------------------------------------------------------------------------


def across_runs(
    runs: Mapping[object, Any], field: str, metrics: Sequence[str] = PRIMARY, methods: Iterable[str] = METHODS
) -> pd.DataFrame:
    """The same table from several runs, on the sequences that all of them measured; runs: value of `field` -> run.

    raises  InputError: the runs differ in another parameter than `field` and the number of sequences.
    """
    _check_alike(runs, field)
    shared = set.intersection(*(set(run.sequences["sequence"]) for run in runs.values()))
    rows = []
    for value, run in runs.items():
        for metric in metrics:
            records = _records(run, metric, None)
            records = records[records["sequence"].isin(shared) & records["method"].isin(list(methods))]
            rows.append(_means(records.assign(**{field: value}), field, metric))
    return pd.concat(rows, ignore_index=True)


def best_first(means: pd.DataFrame, field: str, methods: Iterable[str] = METHODS) -> str:
    """The methods from best to worst by their means, in words: "L1 loss A > B at 1,024, B > A at 4,096; ...".

    means  of `axis_means` or `across_runs`; only metrics of which a direction is better
    """
    parts = []
    for metric, group in means[means["method"].isin(list(methods))].groupby("metric", sort=False):
        table = METRICS[metric].sign * group.pivot(index=field, columns="method", values="estimate")
        found = {value: " > ".join(row.sort_values(ascending=False).index) for value, row in table.iterrows()}
        same = len(set(found.values())) == 1
        told = [f"{order} {'throughout' if same else f'at {value:,}'}" for value, order in found.items()]
        parts.append(f"{METRICS[metric].short} {', '.join(told[:1] if same else told)}")
    return "; ".join(parts)


def _check_alike(runs: Mapping[object, Any], field: str) -> None:
    plain = {"per_category": 1, "methods": METHODS, field: getattr(Parameters(), field)}
    settings = {value: replace(run.parameters, **plain, variants=None) for value, run in runs.items()}
    first = next(iter(settings.values())).as_dict()
    for value, one in settings.items():
        for name, mine in one.as_dict().items():
            if mine != first.get(name):
                raise InputError(
                    f"the run at {field}={value} has {name}={mine}, the first has {first.get(name)}; compare runs that "
                    f"differ in {field} alone."
                )


@styled
def axis_figure(means: pd.DataFrame, field: str, label: str, marked: object = None, subject: str = "") -> Figure:
    """Metrics against one hyper-parameter, a panel per metric and a line per method, with 95 % intervals.

    means   columns metric, method, <field>, estimate, low, high, n (`axis_means`)
    label   of the x axis, with its unit
    marked  the value that the rest of the book uses
    The values stand at equal distances; numbers are joined by lines, names are not.
    """
    metrics, values = list(means["metric"].unique()), list(means[field].unique())
    numbers = not any(isinstance(value, str | bool) for value in values)
    values = sorted(values) if numbers else values
    figure, axes = panels(len(metrics), height=2.3, sharex=True)
    for ax, metric in zip(axes, metrics, strict=True):
        mine = means[means["metric"] == metric].dropna(subset="estimate")
        mine = mine.assign(at=[float(values.index(value)) for value in mine[field]]).sort_values("at", kind="stable")
        methods = list(means["method"].unique())
        mine = mine.assign(turn=mine["method"].map(methods.index)).sort_values(["turn", "at"])
        if numbers:
            ends = line_panel(ax, mine, "at")
        else:  # beside each other, with bars: between two names there is nothing
            mine["at"] += 0.12 * (mine["turn"] - (len(methods) - 1) / 2)
            ax.vlines(
                mine["at"], mine["low"], mine["high"], color=[look(m).colour for m in mine["method"]], linewidth=1.4
            )
            ends = line_panel(ax, mine.drop(columns=["low", "high"]), "at", linestyle="none")
        if marked in values:
            ax.axvline(values.index(marked), color=GREY, linewidth=0.8, linestyle=(0, (3, 2)), zorder=0)
        about = METRICS[metric]
        unit = f" ({about.unit})" if about.unit else ""
        ax.set(xlim=(-0.4, len(values) - 0.6), ylabel="\n".join(filter(None, [about.short + unit, about.direction])))
        say_start(ax)
        label_ends(ax, len(values) - 1, ends, gap=0.12)
    ticks = [f"{value:g}" if numbers else str(value) for value in values]
    axes[-1].set_xticks(range(len(values)), ticks)
    axes[-1].set_xlabel(label)
    headline(figure, subject or METRICS[metrics[0]].label, int(means["n"].max()))
    return figure
