"""LongBench itself: from the hub at a fixed revision, or from a local `data.zip` or folder in the hub's layout."""

import functools
import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError
from ..files import sha256
from ..sequence import text_hash
from .prompts import prompt
from .schema import DATASETS, problems

REPOSITORY = "zai-org/LongBench"  # formerly THUDM/LongBench
REVISION = "5e628be450b7e67fb7ae6e201bd6d8f7056f7672"

# git's ids of the official files: `git hash-object data/<name>.jsonl`
OFFICIAL = {
    "narrativeqa": "5446d6580c0fbabc4902baae7fc5d873a5063384",
    "qasper": "b1a8362e1ca5e8c8bc585240af28ff356353976e",
    "multifieldqa_en": "a219154fb7add8fda8fa4d194e6cf445632ee5fa",
    "hotpotqa": "7f44e50b1a7142585db1fdca0324fd4554cd9c98",
    "2wikimqa": "4973a61d19d8def6ecc20b92dba0a472e65a825f",
    "musique": "fc11f706342894d29132f59810882bd99554fa98",
    "gov_report": "6f935674346a6bfa9027950c6851bd81a0a5cda5",
    "qmsum": "8efa254509e031d38b5eec2ca8b7e4b1c91707b8",
    "multi_news": "83ed3cc49ebbd880d0512d6dfdbad82b6fbf3a71",
    "trec": "e37b9a5219b86927df1393a2779b0082ae2b7436",
    "triviaqa": "4c65d9b801d4f8cb1a13943f27f787098c4f412c",
    "samsum": "0e173e1fc54651179920ca0feb96a4c54186e85d",
    "passage_count": "7eb4be842c1c2242ddfe4748e3fb8e40a8d49421",
    "passage_retrieval_en": "a91f7768b3f836e7aa387ac90945fcc85a0548f7",
    "lcc": "6d1f0eb98474cb686901cee7e01687d705bc593e",
    "repobench-p": "28d5076b0d4c37a551a2715226808a39174f2c15",
}


def read(path: str | Path | None, categories: Iterable[str]) -> list[dict]:
    """All rows of the categories' data sets, without evidence; their `document` is a hash of the context.

    A null `_id` becomes a hash of the prompt.

    path  None for the hub, else a local `data.zip` or folder, with `data/<name>.jsonl` or `<name>.jsonl`
    raises InputError: not there, not a zip, a data set or a field missing, hub files that are not the official ones.
    """
    names = [name for category in categories for name in DATASETS["longbench"][category]]
    place = _hub_archive() if path is None else _local(path)
    files = _present(place, names)
    if missing := [name for name in names if name not in files]:
        if place.is_dir():
            inside = [file.relative_to(place).as_posix() for file in sorted(place.glob("*/*/*.jsonl"))]
        else:
            with zipfile.ZipFile(place) as archive:
                inside = archive.namelist()
        elsewhere = [file for file in inside if file.endswith(f"{missing[0]}.jsonl")]
        hint = f"it has {elsewhere[0]}: the files must lie in data/ itself" if elsewhere else "leave out the category"
        wanted = ", ".join(f"data/{name}.jsonl" for name in missing)
        raise InputError(f"{place} lacks {wanted}; {hint}, or get the whole data.zip of {REPOSITORY}.")
    for name, (file, content) in files.items() if path is None else ():
        if (found := _blob_id(content)) != OFFICIAL[name]:
            raise InputError(
                f"{file} is not LongBench's official file: expected git id {OFFICIAL[name]}, found {found}. Delete it "
                "from the hub's cache and try again, or pass a local copy with --data-path."
            )
    return [row for name in names for row in _rows(name, *files[name])]


def identity(path: str | Path | None) -> dict:
    """Which LongBench this is: the hub's revision, or the hashes of local files and which of them are official."""
    if path is None:
        return {"source": "longbench", "repository": REPOSITORY, "revision": REVISION, "sha256": sha256(_hub_archive())}
    place = _local(path)
    files = _present(place, list(OFFICIAL))  # a folder may hold the wanted categories' files alone
    official = [name for name, (_, content) in files.items() if _blob_id(content) == OFFICIAL[name]]
    known = {"source": "longbench", "file": place.name, "official": official}
    if place.is_file():
        return {**known, "sha256": sha256(place)}
    return {**known, "sha256": {name: hashlib.sha256(content).hexdigest() for name, (_, content) in files.items()}}


@functools.cache
def _hub_archive() -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(REPOSITORY, "data.zip", repo_type="dataset", revision=REVISION))
    except Exception as error:  # connection, HTTP, disk, offline mode: the library has no common class for them
        reason = str(error).strip().split("\n")[0]
        if isinstance(error, LocalEntryNotFoundError):
            reason = "the hub cannot be reached, and the file is not in its cache."
        raise InputError(
            f"cannot get data.zip of {REPOSITORY} from the Hugging Face hub: {reason} Connect to the network once, "
            f"or download https://huggingface.co/datasets/{REPOSITORY}/resolve/{REVISION}/data.zip by hand "
            "and pass it with --data-path."
        ) from error


def _local(path: str | Path) -> Path:
    place = Path(path).expanduser()
    if not place.exists():
        raise InputError(f"{place} does not exist; --data-path wants LongBench's data.zip, or a folder of its files.")
    if place.is_dir() and not (place / "data").is_dir() and (place / "data.zip").is_file():
        return place / "data.zip"
    return place


def _present(place: Path, names: Iterable[str]) -> dict[str, tuple[str, bytes]]:
    """Data set -> (where it was found, its bytes), of those that are there."""
    try:
        root = place if place.is_dir() else zipfile.Path(place)
        choices = {name: (root / "data" / f"{name}.jsonl", root / f"{name}.jsonl") for name in names}
        found = {name: next((file for file in files if file.is_file()), None) for name, files in choices.items()}
        return {name: (str(file), file.read_bytes()) for name, file in found.items() if file}
    except RuntimeError as error:  # what zipfile raises for a password, and for a compression that it does not know
        raise InputError(f"{place} cannot be read ({error}); unpack it and pass the folder.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise InputError(f"{place} is not a whole zip file ({error}); download LongBench's data.zip again.") from error


def _rows(name: str, place: str, content: bytes) -> list[dict]:
    rows = []
    for number, line in enumerate(content.split(b"\n"), start=1):  # not splitlines: texts hold other line breaks
        if not line.strip():
            continue
        here = f"{place}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # also: not UTF-8; brackets without end
            raise InputError(f"{here}: not a JSON object ({error}).") from error
        for problem in problems(row):
            raise InputError(f"{here}: {problem}.")
        if row["dataset"] != name:
            raise InputError(f"{here}: field 'dataset' is {row['dataset']!r}, but the file is {name}'s.")
        row["_id"] = row["_id"] or f"text-{text_hash(prompt(row))}"
        rows.append(row | {"evidence": [], "document": text_hash(row["context"] or row["input"])})
    if not rows:
        raise InputError(f"{place} holds no rows.")
    return rows


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
