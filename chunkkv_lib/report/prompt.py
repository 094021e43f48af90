"""A prompt's text in a page: where it was cut, and which of its tokens stay. Plain HTML, no scripts.

Only texts whose licence allows it are quoted; of all others the letters are hidden, the layout stays.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..sequence import Sequence as Sample
from ..sequences import ATTRIBUTION, Attribution, load_sequences
from ..sequences.encoding import own_sequence
from .style import look

if TYPE_CHECKING:
    from IPython.display import HTML

FREE = ("CC BY", "MIT")  # how the licences begin that allow quoting with attribution
MUTED = "var(--pst-color-text-muted, #595959)"
BOX = "border-left: 3px solid var(--pst-color-border, #c8c8c8); padding: 0.2rem 0.8rem; margin: 0.6rem 0;"
TEXT = "overflow-wrap: anywhere; margin: 0.2rem 0 0.6rem; line-height: 1.65;"


def shown_sequence(
    tokenizer: Any,
    prompt: str = "",
    answer: str = "",
    evidence: str = "",
    category: str = "Single-Document QA",
    max_tokens: int = 1000,
    seed: int = 0,
) -> Sample:
    """The sequence of chapters 3 and 4: a reader's own (`own_sequence`) or, without a prompt, one of the open texts.

    Of a dozen drawn the first whose answer has several tokens and whose evidence is left whole, if there is one.
    """
    if prompt.strip():
        return own_sequence(tokenizer, prompt, answer, evidence, max_tokens)
    drawn = load_sequences(tokenizer, categories=[category], per_category=12, max_tokens=max_tokens, seed=seed)
    return max(drawn, key=lambda one: (len(one.answer_ids) > 1, len(one.evidence_spans) > 0))


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text: as if the tokens were decoded one after the other."""
    texts = []
    for before, token in zip([None, *ids], ids, strict=False):
        alone = tokenizer.decode([token])
        lead = "" if before is None else tokenizer.decode([before])
        both = alone if before is None else tokenizer.decode([before, token])
        texts.append(both[len(lead) :] if both.startswith(lead) else alone)
    return texts


def attribution(dataset: str) -> Attribution | None:
    """Whose text a data set is, if its licence allows quoting; else None."""
    found = [one for one in ATTRIBUTION if one.dataset == dataset]
    return next((one for one in found if one.licence.startswith(FREE)), None)


def quoted(text: str, dataset: str) -> str:
    """The text, or the same with every letter and digit hidden where its data set must not be quoted."""
    return text if not dataset or attribution(dataset) else re.sub(r"\w", "•", text)


def credit(dataset: str) -> str:
    """One line of inline Markdown: source, authors and licence of a quotation, or why nothing is quoted."""
    if not dataset:
        return "A text of the reader's own"
    one = attribution(dataset)
    if one is None:
        return f"Text of `{dataset}`, letters hidden: no licence to quote it is stated"
    licence = one.licence.split(",")[0]
    return f"Text: {one.source}. {one.authors}. Licence {licence}. Changes: {one.changes}"


def cut_excerpt(texts: Sequence[str], max_tokens: int, dataset: str, around: int = 40) -> HTML:
    """A prompt's beginning, both edges of the cut, and its end, with the number of tokens left out between them.

    texts       of all the prompt's tokens, before truncation (`token_texts`)
    max_tokens  what stays, first half and last half
    around      tokens shown at each place
    """
    n, last = len(texts), max_tokens // 2
    first = max_tokens - last
    if n <= max_tokens:
        pieces = [(0, around), (n - around, n)]
    else:
        pieces = [(0, around), (first - around, first), (n - last, n - last + around), (n - around, n)]
    parts, end = [], 0
    for start, stop in pieces:
        start = max(start, end)
        if start > end:
            cut = n > max_tokens and end == first
            parts.append(_gap(start - end, cut))
        parts.append(f"<p style='{TEXT}'>{_escaped(quoted(''.join(texts[start:stop]), dataset))}</p>")
        end = max(stop, end)
    return _html(f"<div style='{BOX}'>{''.join(parts)}</div>")


def _gap(tokens: int, cut: bool) -> str:
    what = f"✂ cut out: {tokens:,} tokens" if cut else f"… {tokens:,} tokens not shown here …"
    weight = "font-weight: 600;" if cut else f"color: {MUTED};"
    return f"<p style='text-align: center; margin: 0.4rem 0; {weight}'>{what}</p>"


def kept_text(
    texts: Sequence[str],
    kept_by_method: Mapping[str, Sequence[int]],
    dataset: str,
    start: int = 0,
    evidence: range = range(0),
) -> HTML:
    """A stretch of a prompt once per method, kept tokens marked; under each the kept pieces as a list.

    texts           of the stretch's tokens
    kept_by_method  method -> kept positions of one layer and head, counted from the prompt's beginning
    start           position of the first of `texts`
    evidence        positions of the passage that holds the answer, underlined with dots
    raises          InputError: an empty stretch.
    """
    if not texts:
        raise InputError("the stretch of the prompt is empty; choose one inside the prompt.")
    positions = range(start, start + len(texts))
    parts = []
    for method, kept in kept_by_method.items():
        stays = set(map(int, kept))
        here = sum(position in stays for position in positions)
        title = f"<strong>{html.escape(method)}</strong> keeps {here} of these {len(texts)} tokens"
        body = "".join(
            _run(quoted("".join(text for _, text in run), dataset), method, is_kept, is_evidence)
            for is_kept, is_evidence, run in _runs(positions, texts, stays, evidence)
        )
        pieces = [
            "".join(text for _, text in run) for is_kept, _, run in _runs(positions, texts, stays, range(0)) if is_kept
        ]
        parts.append(
            f"<div style='{BOX}'><p style='margin: 0.2rem 0'>{title}</p>"
            f"<p style='{TEXT} color: {MUTED}'>{body}</p>{_listed(pieces, dataset)}</div>"
        )
    return _html("".join(parts))


def _runs(positions: range, texts: Sequence[str], stays: set[int], evidence: range) -> list[tuple[bool, bool, list]]:
    """Neighbours that are drawn alike: (kept, evidence, [(position, text), ...])."""
    runs: list[tuple[bool, bool, list]] = []
    for position, text in zip(positions, texts, strict=True):
        kind = (position in stays, position in evidence)
        if not runs or runs[-1][:2] != kind:
            runs.append((*kind, []))
        runs[-1][2].append((position, text))
    return runs


def _run(text: str, method: str, kept: bool, evidence: bool) -> str:
    styles = []
    if kept:
        colour = look(method).colour
        styles.append(
            f"color: var(--pst-color-text-base, #222); background: {colour}40; font-weight: 600; "
            f"border-bottom: 2px solid {colour}; padding: 1px 0;"
        )
    if evidence:
        styles.append("text-decoration: underline dotted; text-underline-offset: 0.3em;")
    if not styles:
        return _escaped(text)
    tag = "mark" if kept else "span"
    return f"<{tag} style='{' '.join(styles)}'>{_escaped(text)}</{tag}>"


def _listed(pieces: Sequence[str], dataset: str) -> str:
    items = "".join(f"<li>{_escaped(quoted(piece, dataset)).strip() or '␣'}</li>" for piece in pieces)
    many = f"{len(pieces)} piece" + "s" * (len(pieces) != 1)
    return f"<details><summary>The kept tokens as a list: {many}</summary><ul>{items}</ul></details>" if items else ""


def _escaped(text: str) -> str:
    return html.escape(text).replace("\n", " ⏎ ")


def _html(text: str) -> HTML:
    from IPython.display import HTML

    return HTML(text)
