"""A run on disk: where it lies, its manifest, its records; written so that a kill at any moment loses one sequence.

    runs/<name>/manifest.json      what was measured, with what, when, where
                sequences.parquet  the sequences, in the order they are measured
                layers.parquet     one row per sequence, method and layer
                answers.parquet    one row per sequence and method
                parts/             one pair of files per finished sequence, until they are merged

A reader's runs lie in runs/, those that the project publishes in data/runs/, which only `measure --publish` changes.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, SoftFileLock, Timeout

from ..errors import InputError
from ..files import NOT_OFFERED, replace_atomically, write_text
from ..sequence import Sequence
from .parameters import Parameters

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "data" / "runs"
HOME = ROOT if (ROOT / "chapters").is_dir() else Path()  # installed without a clone: the working folder
OWN = HOME / "runs"
TABLES = ("layers", "answers")
LOCK = ".lock"
#: Every file that a run writes: its manifest, tables, parts, and what a kill leaves of writing one of them.
OURS = re.compile(r"\.?(manifest\.json|(\d{6}\.)?(sequences|layers|answers)\.parquet)(\.\w+\.tmp)?")


@dataclass(frozen=True)
class Run:
    """A run read back: its manifest, and its tables, of the finished sequences."""

    name: str
    path: Path
    manifest: dict = field(repr=False)
    sequences: pd.DataFrame = field(repr=False)
    layers: pd.DataFrame = field(repr=False)
    answers: pd.DataFrame = field(repr=False)

    @property
    def parameters(self) -> Parameters:
        """The parameters that the manifest records."""
        known = Parameters.__dataclass_fields__
        return Parameters(**{key: value for key, value in self.manifest["parameters"].items() if key in known})

    @cached_property
    def records(self) -> pd.DataFrame:
        """`layers` with the category, data set and document of each sequence."""
        return self._with_category(self.layers)

    @cached_property
    def answer_records(self) -> pd.DataFrame:
        """`answers` with the category, data set and document of each sequence."""
        return self._with_category(self.answers)

    def _with_category(self, frame: pd.DataFrame) -> pd.DataFrame:
        known = [name for name in ("sequence", "category", "dataset", "document") if name in self.sequences]
        return frame.merge(self.sequences[known], on="sequence", how="left")


# --- where runs lie -----------------------------------------------------------------------------------------------


def run_names(published: bool = False) -> list[str]:
    """Names of the runs that hold records, in alphabetical order: those of the project, and the reader's besides."""
    places = [PUBLISHED] if published else [PUBLISHED, OWN]
    return sorted({table.parent.name for place in places for table in place.glob("*/layers.parquet")})


def folder_to_measure(name: str | Path, publish: bool = False) -> Path:
    """Where `measure` may write a run of this name; nothing is made or changed here."""
    folder = (PUBLISHED if publish else OWN) / name if _is_bare(name) else Path(name).expanduser()
    in_published = PUBLISHED.resolve() in folder.resolve().parents
    if publish and not in_published:
        raise InputError(f"--publish writes to {PUBLISHED}, not to {folder}; give --run a name without a slash.")
    if not publish and (in_published or (_is_bare(name) and (PUBLISHED / name).exists())):
        remedy = "choose another name with --run, or change what the project publishes with --publish"
        raise InputError(f"{folder.name!r} is a published run, and those are read-only: {remedy}.")
    inside = [path.name for path in folder.iterdir() if not path.name.startswith(LOCK)] if folder.is_dir() else []
    if folder.is_file() or (inside and read_manifest(folder) is None):
        raise InputError(
            f"{folder} is not a run's folder{f' (it holds {min(inside)})' if inside else ''}; nothing in it was "
            "touched. Choose a new or empty one with --run."
        )
    return folder


def _is_bare(name: str | Path) -> bool:
    return len(Path(name).parts) == 1 and str(name) != ".." and not {"/", os.sep} & set(str(name))


# --- reading and writing ------------------------------------------------------------------------------------------


def load_run(name: str | Path) -> Run:
    """Read a finished or partial run: a bare name is looked for in runs/ and data/runs/, one with a slash is a path."""
    places = [OWN / name, PUBLISHED / name] if _is_bare(name) else [Path(name).expanduser()]
    found = [place for place in places if (place / "manifest.json").exists()]
    if not found:
        raise InputError(f"no run at {name}. Measure one: python -m chunkkv_lib measure --profile quick --run {name}")
    if len(found) == 2:
        raise InputError(f"there is a run {name!s} in {OWN} and in {PUBLISHED}; rename yours, or give a path.")
    folder = found[0]
    manifest = read_manifest(folder)
    frames = {table: read_parquet(folder / f"{table}.parquet") for table in ("sequences", *TABLES)}
    if missing := [table for table, frame in frames.items() if frame is None]:
        raise InputError(f"run {folder} has no {missing[0]}.parquet yet; let it measure at least one sequence.")
    done = frames["sequences"]["sequence"].isin(frames["layers"]["sequence"])
    frames["sequences"] = frames["sequences"][done].reset_index(drop=True)
    return Run(folder.name, folder, manifest, **frames)


def read_manifest(folder: Path) -> dict | None:
    """The manifest of a run folder, or None if there is none; InputError if it is none of ours, or damaged."""
    path = folder / "manifest.json"
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for key in ("status", "parameters", "model", "data", "measurement_version"):
            manifest[key]
    except (ValueError, KeyError, TypeError) as error:
        what = f"{path} is damaged, or not of a run of this edition ({error!r:.60})"
        raise InputError(f"{what}. Restore it, remove it and measure again, or choose another folder.") from error
    return manifest


def write_manifest(folder: Path, manifest: dict) -> None:
    """Write manifest.json, atomically."""
    write_text(folder / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def read_parquet(path: Path) -> pd.DataFrame | None:
    """A parquet file as a DataFrame, or None if it is not there; InputError if it is damaged."""
    if not path.exists():
        return None
    try:
        return pq.ParquetFile(path).read().to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path} is damaged ({str(error)[:80]}); delete it and measure again.") from error


def holds_all(folder: Path, manifest: dict) -> bool:
    """Whether a run is complete: its manifest says so, and no table was deleted or lost rows since."""
    if manifest["status"] != "complete":
        return False
    found = [read_parquet(folder / f"{table}.parquet") for table in ("sequences", *TABLES)]
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


def sequence_table(sequences: list[Sequence]) -> pd.DataFrame:
    """The sequences of a run without their text: what `sequences.parquet` holds."""
    return pd.DataFrame(
        {
            "sequence": [s.id for s in sequences],
            "category": [s.category for s in sequences],
            "dataset": [s.dataset for s in sequences],
            "document": [s.document for s in sequences],
            "text_hash": [s.text_hash for s in sequences],
            "prompt_tokens": [len(s.prompt_ids) for s in sequences],
            "answer_tokens": [len(s.answer_ids) for s in sequences],
            "evidence_passages": [len(s.evidence_spans) for s in sequences],
            "evidence_tokens": [sum(stop - first for first, stop in s.evidence_spans) for s in sequences],
        }
    )


class Recorder:
    """Collects a run's records sequence by sequence, and knows which sequences are finished."""

    def __init__(self, folder: Path, sequences: list[str]) -> None:
        self.folder, self.order = folder, {name: i for i, name in enumerate(sequences)}
        found = [read_parquet(folder / f"{table}.parquet") for table in TABLES]
        merged = set.intersection(*(set(() if table is None else table["sequence"]) for table in found))
        self.done = (merged | {name for name in self.order if self._part(name, TABLES[0]).exists()}) & set(self.order)

    def add(self, sequence: str, layers: pd.DataFrame, answers: pd.DataFrame) -> None:
        """Store one sequence's records; they are safe once this returns."""
        write_parquet(self._part(sequence, "answers"), answers)
        write_parquet(self._part(sequence, "layers"), layers)  # last: this part says that the sequence is finished
        self.done.add(sequence)

    def merge(self) -> None:
        """Move all parts into the run's tables, in the order of the sequences."""
        finished = [name for name in self.order if self._part(name, TABLES[0]).exists()]
        for table in TABLES:
            paths = [self.folder / f"{table}.parquet", *(self._part(name, table) for name in finished)]
            if frames := [read_parquet(path) for path in paths if path.exists()]:
                frame = pd.concat(frames, ignore_index=True)
                keys = [key for key in ("sequence", "method", "layer") if key in frame]
                frame = frame.drop_duplicates(keys, keep="last")  # a kill while merging leaves parts
                order = frame["sequence"].map(self.order)  # NaN: a sequence that the run does not have any more
                frame = frame.assign(order=order).dropna(subset="order").sort_values("order", kind="stable")
                write_parquet(self.folder / f"{table}.parquet", frame.drop(columns="order"))
        remove_ours(self.folder / "parts")

    def _part(self, sequence: str, table: str) -> Path:
        return self.folder / "parts" / f"{self.order[sequence]:06d}.{table}.parquet"


def remove_ours(folder: Path) -> None:
    """Remove the files that a run wrote, the manifest last, and the folder if nothing else is in it."""
    if not folder.is_dir():
        return
    if folder.name != "parts":
        remove_ours(folder / "parts")
    for path in sorted(folder.iterdir(), key=lambda path: path.name == "manifest.json"):
        if OURS.fullmatch(path.name) and path.is_file():
            path.unlink()
    with suppress(OSError):  # a lock or somebody's file is left
        folder.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder, made if need be, for one process. A folder that was made and stays empty goes again."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0, fallback_to_soft=False)
    try:
        try:
            lock.acquire()
        except OSError as error:
            if isinstance(error, Timeout) or error.errno not in NOT_OFFERED:
                raise
            # A file system without locks (some NFS, Lustre, containers): a file that names its owner's process instead.
            lock = SoftFileLock(folder / f"{LOCK}-file", timeout=0)
            lock.acquire()
    except Timeout:
        raise InputError(
            f"{folder} is being measured by another process; wait for it, or choose another --run. If there is none on "
            f"any machine, delete {lock.lock_file} and try again."
        ) from None
    try:
        yield
    finally:
        lock.release()
        if new and {path.name for path in folder.iterdir()} <= {LOCK}:
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()
