"""A run on disk: its folder, its manifest, its records; written so that a kill at any moment loses one sequence.

    data/runs/<name>/manifest.json      what was measured, with what, when, where
                     sequences.parquet  the sequences, in the order they are measured
                     layers.parquet     one row per sequence, method and layer
                     answers.parquet    one row per sequence and method
                     parts/             one pair of files per finished sequence, until they are merged
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError
from ..files import replace_atomically, write_text

TABLES = ("layers", "answers")


@dataclass(frozen=True)
class Run:
    """A run read back.

    sequences, layers, answers  DataFrames; `layers` and `answers` carry the sequence's category and dataset too
    """

    name: str
    path: Path
    manifest: dict = field(repr=False)
    sequences: pd.DataFrame = field(repr=False)
    layers: pd.DataFrame = field(repr=False)
    answers: pd.DataFrame = field(repr=False)

    @cached_property
    def records(self) -> pd.DataFrame:
        """`layers` with the category and data set of each sequence."""
        return self._with_category(self.layers)

    @cached_property
    def answer_records(self) -> pd.DataFrame:
        """`answers` with the category and data set of each sequence."""
        return self._with_category(self.answers)

    def _with_category(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame.merge(self.sequences[["sequence", "category", "dataset"]], on="sequence", how="left")


def run_folder(name: str | Path) -> Path:
    """The folder of a run: a bare name means data/runs/<name> of this project; a name with a slash is a path."""
    path = Path(name)
    if len(path.parts) == 1 and not {"/", os.sep} & set(str(name)) and str(name) not in (".", ".."):
        return Path(__file__).resolve().parents[2] / "data" / "runs" / path
    return path


def load_run(name: str | Path) -> Run:
    """Read a finished or partial run.

    raises InputError: no such run, or a damaged file, with the way to mend it.
    """
    folder = run_folder(name)
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"no run at {folder}. Measure one: python -m chunkkv_lib measure --profile quick --run {name}")
    frames = {table: read_table(folder, table) for table in ("sequences", *TABLES)}
    missing = [table for table, frame in frames.items() if frame is None]
    if missing:
        raise InputError(f"run {folder} has no {missing[0]}.parquet yet; let it measure at least one sequence.")
    done = frames["sequences"]["sequence"].isin(frames["layers"]["sequence"])
    return Run(folder.name, folder, manifest, frames["sequences"][done].reset_index(drop=True), **{
        table: frames[table] for table in TABLES
    })  # fmt: skip


def read_manifest(folder: Path) -> dict | None:
    """The manifest of a run folder, or None if there is none."""
    path = folder / "manifest.json"
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for key in ("status", "parameters", "model", "data", "code"):
            manifest[key]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}); delete the folder {folder}, or restore the file, and measure "
            "again."
        ) from error
    return manifest


def write_manifest(folder: Path, manifest: dict) -> None:
    """Write manifest.json, atomically."""
    write_text(folder / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def read_table(folder: Path, table: str) -> pd.DataFrame | None:
    """One of the run's tables, or None if it is not there."""
    return read_parquet(folder / f"{table}.parquet")


def read_parquet(path: Path) -> pd.DataFrame | None:
    """A parquet file as a DataFrame, or None if it is not there; InputError if it is damaged."""
    if not path.exists():
        return None
    try:
        return pq.ParquetFile(path).read().to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path} is damaged ({str(error)[:80]}); delete it and measure again.") from error


def holds_all(folder: Path, manifest: dict, tables: tuple[str, ...] = TABLES) -> bool:
    """Whether a run is complete: its manifest says so, and no table was deleted or lost rows since.

    raises InputError: a table is damaged.
    """
    if manifest["status"] != "complete":
        return False
    found = [read_table(folder, table) for table in ("sequences", *tables)]
    wanted = manifest["sequences"]["wanted"]
    return all(table is not None and table["sequence"].nunique() == wanted for table in found)


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write a table, atomically; the same rows give the same bytes. Measured numbers are stored as float32."""
    numbers = {name: "float32" for name in frame.columns if frame[name].dtype == "float64"}
    table = pa.Table.from_pandas(frame.astype(numbers), preserve_index=False).replace_schema_metadata(None)
    texts = [column.name for column in table.schema if not pa.types.is_floating(column.type)]
    floats = [column.name for column in table.schema if pa.types.is_floating(column.type)]
    with replace_atomically(path) as temporary:
        pq.write_table(
            table, temporary, compression="zstd", use_dictionary=texts, use_byte_stream_split=floats, version="2.6"
        )


class Recorder:
    """Collects a run's records sequence by sequence, and knows which sequences are finished.

    tables  names of the run's tables; every sequence has a part of each
    """

    def __init__(self, folder: Path, sequences: list[str], tables: tuple[str, ...] = TABLES) -> None:
        self.folder, self.parts, self.tables = folder, folder / "parts", tables
        self.order = {name: i for i, name in enumerate(sequences)}
        found = [read_table(folder, table) for table in tables]
        complete = all(table is not None for table in found)
        merged = set.intersection(*(set(table["sequence"]) for table in found)) if complete else set()
        self.done = merged | {name for name, i in self.order.items() if self._finished(i)}

    def add(self, sequence: str, *frames: pd.DataFrame) -> None:
        """Store one sequence's records, a frame for each table; they are safe once this returns."""
        index = self.order[sequence]
        # The first table comes last: its part says that the sequence is finished.
        for table, frame in reversed(list(zip(self.tables, frames, strict=True))):
            write_parquet(self._part(index, table), frame)
        self.done.add(sequence)

    def merge(self) -> None:
        """Move all parts into the run's tables, in the order of the sequences."""
        finished = [i for i in sorted(self.order.values()) if self._finished(i)]
        for table in self.tables:
            frames = [read_table(self.folder, table), *(read_parquet(self._part(i, table)) for i in finished)]
            frames = [frame for frame in frames if frame is not None]
            if frames:
                self._write_table(table, pd.concat(frames, ignore_index=True))
        shutil.rmtree(self.parts, ignore_errors=True)

    def _write_table(self, table: str, frame: pd.DataFrame) -> None:
        keys = [key for key in ("sequence", "method", "layer") if key in frame]
        frame = frame.drop_duplicates(keys, keep="last")  # a kill while merging leaves parts that are already in
        order = frame["sequence"].map(self.order)
        frame = frame[order.notna()].assign(_order=order).sort_values("_order", kind="stable").drop(columns="_order")
        write_parquet(self.folder / f"{table}.parquet", frame)

    def _finished(self, index: int) -> bool:
        """Whether a sequence has all its parts: the first table's is written last."""
        return self._part(index, self.tables[0]).exists()

    def _part(self, index: int, table: str) -> Path:
        return self.parts / f"{index:06d}.{table}.parquet"


def discard(folder: Path) -> None:
    """Remove a run's records and manifest; the folder and its lock stay."""
    for old in (*folder.glob("*.parquet"), *folder.glob("manifest.json")):
        old.unlink()
    shutil.rmtree(folder / "parts", ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder for one process; InputError if another one measures into it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{folder} is being measured by another process; wait for it, or choose another --run."
            ) from None
        yield
