"""Is a run what it says? Measure a few of its sequences again and compare the records."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from ..errors import InputError, check_whole
from ..measure import analyse
from ..models import describe, load_model
from .driver import sequences_of
from .folder import load_run, run_names
from .identity import MEASUREMENT_VERSION, data_identity, differences

#: Largest difference between two measurements of a sequence, as a mean over its layers: of layers, of answers. Other
#: machines round otherwise, and a token at the edge of a budget then changes places; 16-bit numbers round far more.
TOLERANCE = {"float32": (0.002, 0.02), "bfloat16": (0.02, 0.3), "float16": (0.02, 0.3)}
NOT_COMPARED = {"sequence", "method", "layer", "kl", "top1_agreement", "accuracy"}  # follow from others, or are coarse


def verify(
    name: str | Path,
    count: int = 3,
    seed: int | None = None,
    progress: bool = True,
    report: Callable[[str], None] = print,
    **places: object,
) -> pd.DataFrame:
    """Measure `count` random sequences of a run again, with the manifest's parameters, and compare.

    seed    of the choice of sequences; None: another choice every time
    places  where this machine has what a manifest names but does not locate: model="path.gguf", data_path="data.zip";
            also device
    return  per column of the records, the largest difference, its limit, and the sequence and method that have it
    Written answers are not compared: a near-tie between two tokens, and the rest of a text is another one.
    raises  InputError: no such run, its model or data are not here or are others than those it was measured with.
    """
    run = load_run(name)
    check_whole(count=count)
    if (version := run.manifest.get("measurement_version")) != MEASUREMENT_VERSION:  # told before a model is loaded
        other = f"measurement_version={version}, this code has {MEASUREMENT_VERSION}"
        raise InputError(
            f"run {run.name!r} has {other}. Verify it with the code of its time, or measure the run again."
        )
    settings = replace(run.parameters, **{key: value for key, value in places.items() if value is not None})
    dtype = run.manifest["model"]["dtype"]
    model, tokenizer = load_model(settings.model, settings.device, dtype, settings.device_map)
    # What may differ: where it ran, how a file is called, whose prompts they are.
    free = ("device", "name", "prompts", "source")
    here = {"model": describe(model, settings.model), "data": data_identity(settings)}
    both = ({key: {k: v for k, v in one[key].items() if k not in free} for key in here} for one in (run.manifest, here))
    if changed := differences(*both):
        remedy = "Point to the right one with --model or --data-path, or measure the run again."
        raise InputError(f"run {run.name!r} was measured with {changed[0]}. {remedy}")
    chosen = random.Random(seed).sample(list(run.sequences["sequence"]), min(count, len(run.sequences)))
    sequences = {sequence.id: sequence for sequence in sequences_of(settings, tokenizer)}
    hashes = run.sequences.set_index("sequence")["text_hash"]
    for name in chosen:
        if name not in sequences or sequences[name].text_hash != hashes[name]:
            raise InputError(f"sequence {name!r} of run {run.name!r} is not the same text here. Check the data.")
    again = [
        analyse(model, sequences[name], settings.compressors, settings.reuse, settings.all_queries)
        for name in tqdm(chosen, unit="sequence", disable=not progress)
    ]
    layers, answers = (pd.concat(frames) for frames in zip(*again))
    of_layers, of_answers = TOLERANCE[dtype]
    worst = [*_worst(run.layers, layers, of_layers), *_worst(run.answers, answers, of_answers)]
    worst = pd.DataFrame(worst, columns=["column", "difference", "limit", "sequence", "method"])
    report(f"run {run.name}: {len(chosen)} sequences measured again: {', '.join(chosen)}")
    for row in worst.itertuples():
        mark = "ok" if row.difference <= row.limit else f"TOO FAR ({row.method}, {row.sequence})"
        report(f"  {row.column:<30} differs by {row.difference:.1e} at most, limit {row.limit:g}  {mark}")
    return worst


def verify_runs(names: list[str], count: int = 3, seed: int | None = None, report=print, **places: object) -> None:
    """Verify the named runs; with no names every published run whose model and data are here, saying which are not."""
    found = {}
    for name in names or run_names(published=True):
        try:
            found[name] = verify(name, count, seed, report=report, **places)
        except InputError as error:
            if names:
                raise
            report(f"run {name}: cannot be verified here: {error}")
    if wrong := [name for name, worst in found.items() if (worst["difference"] > worst["limit"]).any()]:
        raise InputError(f"{', '.join(wrong)}: measuring again gives other numbers than the records. Measure anew.")
    if not found:
        raise InputError("no run could be verified. Name one below runs/ or data/runs, or measure one first.")


def _worst(old: pd.DataFrame, new: pd.DataFrame, limit: float) -> list[tuple]:
    """Per column the largest difference of means over layers, the limit, and where it is."""
    columns = [name for name in new.columns if name not in NOT_COMPARED and name in old.columns]
    after, before = (frame.groupby(["sequence", "method"])[columns].mean() for frame in (new, old))
    before = before.reindex(after.index)
    away = (after - before).abs().mask(after.isna() != before.isna(), float("inf")).dropna(axis=1, how="all")
    return [(name, float(away[name].max()), limit, *away[name].idxmax()) for name in away]
