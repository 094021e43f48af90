"""Questions to answer while reading: in the chapters, on one page, and as a file for Moodle."""

import random
import re
from pathlib import Path

import yaml

from ..errors import InputError, check_known
from .homework import RULES, RUN, filled

NEEDLES = "needles-smollm2"


def numbers() -> dict[str, object]:
    """What the questions name in braces: means of the published run, and how many needles each rule finds."""
    from ..runs import load_run

    run, found = load_run(RUN), {}
    means = run.layers.groupby("method", observed=True)[["kv_l1_loss", "attention_cosine_similarity"]].mean()
    for metric, ascending in (("kv_l1_loss", True), ("attention_cosine_similarity", False)):
        ranked = means.loc[list(RULES), metric].sort_values(ascending=ascending)
        for place, (name, value) in enumerate(ranked.items(), 1):
            found |= {f"{metric[:2]}_name_{place}": name, f"{metric[:2]}_{place}": value}
    found |= {"random": means.at["Random", "kv_l1_loss"], "oracle": means.at["Oracle", "kv_l1_loss"]}
    hits, asked = needles_found()
    for place, (name, count) in enumerate(hits[list(RULES)].sum().sort_values(ascending=False).items(), 1):
        found |= {f"found_name_{place}": name, f"found_{place}": count}
    found |= {"found_full": hits["Full"].sum(), "found_random": hits["Random"].sum(), "needles": asked.sum()}
    found |= {"short": asked[2], "found_short": hits.at[2, "ChunkKV"], "long": asked[16]}
    for rule, setting, usual, others in (("SnapKV", "kernel", 7, (1, 25)), ("ChunkKV", "chunk_size", 10, (5, 40))):
        found |= {f"{setting}_{size}": hits[f"{rule}, {setting} {size}"].sum() for size in others}
        found[f"{setting}_{usual}"] = hits[rule].sum()
    return found | {"found_long": hits.at[16, "ChunkKV"], "full_long": hits.at[16, "Full"]}


def needles_found():
    """Needles found, by tokens of the answer (rows) and method (columns); and how many there are of each length."""
    from ..runs import load_run

    answers = load_run(NEEDLES).answer_records
    hits = answers.assign(tokens=answers["sequence"].str.split(":").str[2].astype(int), found=answers["score"] == 1)
    table = hits.pivot_table(index="tokens", columns="method", values="found", aggfunc=["sum", "count"], observed=True)
    return table["sum"], table["count"]["Full"]


def load_questions(chapter: str | None = None) -> list[dict]:
    """A chapter's questions, or all, with their numbers filled in; the first option is the right one.

    raises  InputError: an unknown chapter, or the runs no longer say what a question's answer says.
    """
    found = yaml.safe_load(Path(__file__).with_name("questions.yml").read_text(encoding="utf-8"))
    if chapter is not None:
        check_known("chapter", chapter, sorted({question["chapter"] for question in found}))
        found = [question for question in found if question["chapter"] == chapter]
    known = numbers() if "{" in str([list(question.values()) for question in found]) else {}  # a copy has no runs
    for question in found:
        rising = [known[name] for name in question.get("ascending", ())]
        if rising != sorted(set(rising)):
            raise InputError(f"question {question['id']!r}: {question['ascending']} do not rise in the runs: {rising}.")
        for part in ("ask", "why"):
            question[part] = question[part].format(**known)
        question["options"] = [str(option).format(**known) for option in question["options"]]
    return found


def mixed(question: dict) -> list[str]:
    """The options in an order that depends on the question alone, so that a page is the same every time."""
    return random.Random(question["id"]).sample(question["options"], len(question["options"]))


def as_html(questions: list[dict]) -> str:
    """Questions to click on; marks and answers need no JavaScript."""
    return filled("quiz.html", questions=questions, mixed=mixed)


def quiz(chapter: str):
    """The questions of a chapter, by the name of its file without suffix, to be displayed in its page.

    Outside a clone of the book's repository there are no recorded runs to take the answers from: then a line says so.
    """
    from IPython.display import HTML

    from ..runs.folder import PUBLISHED

    try:
        return HTML(as_html(load_questions(chapter)))
    except InputError:
        if PUBLISHED.is_dir():
            raise
        return HTML("<p>These questions are answered by recorded runs: they are on this page in the book itself.</p>")


def bank() -> str:
    """All questions, grouped by objective, as HTML."""
    found = load_questions()
    groups = {n: [question for question in found if question["objective"] == n] for n in range(1, 7)}
    return "\n".join(f"<p><strong>Objective {n}</strong></p>\n{as_html(group)}" for n, group in groups.items())


def moodle() -> str:
    """The same in Moodle's GIFT format: Question bank, Import."""

    def escaped(text: str) -> str:
        return re.sub(r"([~=#{}:\\])", r"\\\1", text)

    return filled("quiz.gift", questions=load_questions(), mixed=mixed, escaped=escaped)
