"""What the builders share: the shape of a row, the generator of its draws, and how long a text should be."""

import random
import re
from collections.abc import Iterable, Sequence

ROWS = 200  # per data set at most, as in LongBench
CHARACTERS = 40_000  # target length of a context that can be filled up; about 9,000 tokens
MIN_CHARACTERS = 18_000  # a text shorter than this is left out; about 4,000 tokens


def row(
    dataset: str,
    original_id: str,
    *,
    context: str,
    answers: Iterable[str],
    document: str = "",
    input: str = "",
    evidence: Iterable[str] = (),
    all_classes: Iterable[str] | None = None,
) -> dict:
    """One row in LongBench's format, with `evidence`; its id is "<data set>:<original id>".

    document  name of the text asked about, if other rows share it
    """
    id = f"{dataset}:{original_id}"
    return {
        "input": input,
        "context": context,
        "answers": list(dict.fromkeys(answers)),  # the order of the source, without repetitions
        "length": len(context.split()) + len(input.split()),
        "dataset": dataset,
        "language": "en",
        "all_classes": None if all_classes is None else list(all_classes),
        "_id": id,
        "evidence": list(evidence),
        "document": document or id,
    }


def generator(*names: object) -> random.Random:
    """The generator for a row, or a data set, of this name: the same numbers on every machine and in every run."""
    return random.Random(":".join(map(str, names)))


def choose(items: Sequence, count: int, *names: object) -> list:
    """`count` of `items` (all, if there are fewer), drawn by the generator of that name, in the order of `items`."""
    positions = generator(*names).sample(range(len(items)), min(count, len(items)))
    return [items[i] for i in sorted(positions)]


def fill(parts: Iterable[str], start: int = 0, characters: int = CHARACTERS) -> list[str]:
    """`parts` from the front, until they have `characters` together with the `start` that is there already."""
    chosen: list[str] = []
    for part in parts:
        if start >= characters:
            break
        chosen.append(part)
        start += len(part)
    return chosen


def sentence_at(text: str, start: int, stop: int, border: str = r"[.!?][\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])") -> str:
    """The sentence, or sentences, of `text` that hold its characters start..stop-1, verbatim and trimmed.

    border  regular expression of what lies between two sentences
    """
    ends = [match.end() for match in re.finditer(border, text)]
    first = max((end for end in ends if end <= start), default=0)
    last = min((end for end in ends if end >= stop), default=len(text))
    return text[first:last].strip()


def numbered(passages: Iterable[str]) -> str:
    """Passages as LongBench numbers them: "Paragraph 1: ..."."""
    return "\n\n".join(f"Paragraph {i}: {passage}" for i, passage in enumerate(passages, start=1))
