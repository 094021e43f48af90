"""Questions to answer while reading: with folded answers for a page, and as a file for Moodle.

from chunkkv_lib.exercises.questions import bank, moodle
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import yaml

from .homework import recorded

LETTERS = "ABCDEF"


def load_questions() -> list[dict]:
    """Every question with its numbers filled in from the published run; the first option is the right one."""
    layers, numbers = recorded()
    means = layers[layers["method"] != "Random"].groupby("method")["kv_l1_loss"].mean().sort_values()
    numbers |= {"second": means.index[1], "third": means.index[2]}
    found = yaml.safe_load(Path(__file__).with_name("questions.yml").read_text(encoding="utf-8"))
    for question in found:
        question["ask"] = question["ask"].format(**numbers)
        question["options"] = [str(option).format(**numbers) for option in question["options"]]
    return found


def mixed(question: dict) -> list[str]:
    """The options in an order that depends on the question alone, so that a page is the same every time."""
    return random.Random(question["id"]).sample(question["options"], len(question["options"]))


def bank() -> str:
    """All questions as Markdown, grouped by objective; answers unfold without JavaScript."""
    lines, objective = [], None
    for number, question in enumerate(load_questions(), 1):
        if question["objective"] != objective:
            objective = question["objective"]
            lines += [f"**Objective {objective}**", ""]
        options = mixed(question)
        lines += [f"{number}. {question['ask']}", ""]
        lines += [f"   - {letter}: {option}" for letter, option in zip(LETTERS, options)]
        right = LETTERS[options.index(question["options"][0])]
        lines += ["", f"   <details><summary>Answer</summary><strong>{right}</strong>. {question['why']}</details>", ""]
    return "\n".join(lines)


def moodle() -> str:
    """The same in Moodle's GIFT format: Question bank, Import."""

    def escaped(text: str) -> str:
        return re.sub(r"([~=#{}:\\])", r"\\\1", text)

    questions = []
    for question in load_questions():
        answers = [
            ("=" if option == question["options"][0] else "~") + escaped(option) + f"#{escaped(question['why'])}"
            for option in mixed(question)
        ]
        questions.append(f"::{question['id']}::{escaped(question['ask'])} {{\n  " + "\n  ".join(answers) + "\n}\n")
    return "\n".join(questions)
