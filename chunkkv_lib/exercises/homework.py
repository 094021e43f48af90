"""Homework that stands alone: a hand-out, its solutions, paper sheets of which no two are alike, and a grader's zip.

    python -m chunkkv_lib homework three-rules --course "ML 301" --students 60

    homework/three-rules/handout/       notebook, README, requirements, data, AGENTS.md: for the students
    homework/three-rules/solutions/     the same with answers, a marking scheme, questions for Moodle
    homework/three-rules/paper/         one sheet for each student, with key.csv
    homework/three-rules/autograder.zip for Gradescope

Sheets are the YAML files in `sheets/`; everything is written the same on every machine, so a second call changes
nothing, and a file that somebody has changed is never replaced.
"""

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from nbformat import writes
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ..compressors import H2O, ChunkKV
from ..errors import InputError, unknown
from ..files import replace_atomically
from .checking import folded_hints
from .tasks import TASKS
from .tasks import texts as asked

SHEETS = Path(__file__).with_name("sheets")
RULES, RUN, SEQUENCES = ("ChunkKV", "SnapKV", "H2O"), "published", 20
LICENCE = (
    "Text and figures: CC BY 4.0; code: MIT. From the book *What a compressed KV cache throws away*; cite it by its "
    "CITATION.cff."
)


def filled(template: str, /, **values: object) -> str:
    """A file of templates/, which are Jinja's, filled in; a value that it lacks is an error, and HTML is escaped."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        undefined=StrictUndefined,
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return templates.get_template(template).render(values)


def load_sheet(name: str) -> dict:
    """A sheet by the name of its file, or by a path. InputError: no such sheet, a question that lacks parts."""
    path = Path(name) if name.endswith((".yml", ".yaml")) else SHEETS / f"{name}.yml"
    if not path.is_file():
        raise unknown("sheet", name, sorted(path.stem for path in SHEETS.glob("*.yml")))
    try:
        sheet = yaml.safe_load(path.read_text(encoding="utf-8")) | {"name": path.stem, "path": str(path)}
        sheet["title"], sheet["minutes"], sheet["before"], sheet["questions"][0]
    except (yaml.YAMLError, TypeError, KeyError, IndexError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{path} cannot be read as a sheet: {why}. The sheets of the book show the form.") from None
    for question in sheet["questions"]:
        if missing := {"id", "points", "minutes", "text", "solution"} - set(question):
            raise InputError(f"{path}: question {question.get('id')!r} lacks {', '.join(sorted(missing))}.")
        if not re.fullmatch(r"[\w-]{1,56}", str(question["id"]), re.ASCII):
            raise InputError(
                f"{path}: question id {question['id']!r} must be at most 56 letters, digits, '-' and '_', as in "
                "'cache-size'; cells of the notebook are named after it."
            )
        if question.get("task") not in {None, *TASKS}:
            raise unknown("task", question["task"], TASKS)
    return sheet


def homework(sheet: str, course: str = "", students: int = 0, output: str | Path = "homework") -> list[Path]:
    """Write a sheet's hand-out, solutions, paper sheets and autograder; the files that are there now.

    sheet     a name in `sheets/`, or the path of a YAML file of one's own
    students  how many paper sheets; number s is made with seed s
    raises    InputError: an unknown sheet; a file that differs from what would be written, before anything is.
    """
    import pandas as pd

    from .questions import moodle  # which needs the numbers that are recorded here

    found = load_sheet(sheet)
    layers, numbers = recorded()
    points = sum(question["points"] for question in found["questions"])
    texts = found | {
        "points": points, "course": f"{course}: " if course else "", "sheet": found["name"], "licence": LICENCE,
    }  # fmt: skip
    files: dict[str, bytes] = {
        f"handout/{found['name']}.ipynb": notebook(texts, numbers, solved=False),
        "handout/README.md": filled("README.md", **texts).encode(),
        "handout/requirements.txt": filled("requirements.txt").encode(),
        "handout/AGENTS.md": filled("AGENTS.md").encode(),
        "handout/chunkkv_lib.zip": archive(library_files("chunkkv_lib/")),
        "handout/data/layers.csv": layers.to_csv(index=False, float_format="%.5f", lineterminator="\n").encode(),
        f"solutions/{found['name']}.ipynb": notebook(texts, numbers, solved=True),
        "solutions/marking.md": filled("marking.md", **texts).encode(),
        "solutions/questions.gift": moodle().encode(),
        "autograder.zip": autograder(found),
    }
    keys = []
    for number in range(1, students + 1):
        text, key = paper_sheet(number, layers, course)
        files[f"paper/student-{number:03}.md"] = text.encode()
        keys.append({"student": number} | key)
    if keys:
        files["paper/key.csv"] = pd.DataFrame(keys).to_csv(index=False, lineterminator="\n").encode()
    folder = Path(output) / found["name"]
    return write_new({folder / name: content for name, content in files.items()})


def write_new(files: Mapping[Path, bytes], force: bool | None = None) -> list[Path]:
    """Write files; InputError before anything is written if one is there that differs, unless `force` is given.

    force   None: the command has no such option
    """
    edited = [path for path, content in files.items() if path.exists() and path.read_bytes() != content]
    if edited and not force:
        raise InputError(
            f"{edited[0]} is there and differs from what would be written; it may hold somebody's work. Move it away, "
            f"or choose another --output{'' if force is None else ', or replace it with --force'}."
        )
    for path, content in files.items():
        if path in edited or not path.exists():
            with replace_atomically(path) as temporary:
                temporary.write_bytes(content)
    return list(files)


# --- what a recorded run says -------------------------------------------------------------------------------------


def recorded():
    """Losses by sequence, method and layer of the published run's first sequences; the numbers that texts name."""
    from ..runs import load_run

    run = load_run(RUN)
    chosen = run.sequences.groupby("category").head(SEQUENCES).sort_values(["category", "sequence"])
    chosen = chosen.assign(number=range(1, len(chosen) + 1))[["sequence", "number", "category"]]
    columns = ["number", "category", "method", "layer", "kv_l1_loss", "attention_cosine_similarity"]
    layers = run.layers[run.layers["method"].isin([*RULES, "Random"])].merge(chosen, on="sequence")
    layers = layers.sort_values(["number", "method", "layer"])[columns].rename(columns={"number": "sequence"})
    layers["method"], layers["category"] = layers["method"].astype(str), layers["category"].astype(str)
    means = layers.groupby("method")["kv_l1_loss"].mean()
    best = means[list(RULES)].idxmin()
    return layers, {"sequences": len(chosen), "random": means["Random"], "best": means[best], "best_name": best}


def notebook(sheet: Mapping, numbers: Mapping, solved: bool) -> bytes:
    """The hand-out, or its solutions: templates/notebook.md, in which `%% name` or `%% name code` begins a cell."""
    text = filled(
        "notebook.md", **sheet, numbers=numbers, solved=solved, tasks=TASKS, asked=asked(), hints=folded_hints
    )
    cells = []
    for part in f"\n{text}".split("\n%% ")[1:]:
        head, _, source = part.partition("\n")
        name, *code = head.split()
        new_cell = new_code_cell if code else new_markdown_cell
        answers = {"question": name.removesuffix("-answer")} if name.endswith("-answer") else {}
        cells.append(new_cell(source.strip(), id=name, metadata=answers))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return (writes(new_notebook(cells=cells, metadata={"kernelspec": kernel})) + "\n").encode()


# --- twelve tokens on paper ---------------------------------------------------------------------------------------


def paper_sheet(seed: int, layers, course: str = "") -> tuple[str, dict]:
    """A sheet to be solved by hand, and its key: twelve tokens with other numbers for every seed, and one question
    about the recorded run whose answer is taken from its records."""
    draw = torch.Generator().manual_seed(seed)
    sums, votes = (torch.randperm(80, generator=draw)[:10].add(1)[None].double() for _ in range(2))
    sizes = torch.randint(1, 10, (12,), generator=draw)
    kept = H2O(budget=6, window=2).keep(sums, 12)[0]
    chunks = ChunkKV(budget=6, window=2, chunk_size=3).keep(votes, 12)[0]
    lost = 1 - float(sizes[kept].sum() / sizes.sum())
    category = sorted(layers["category"].unique())[int(torch.randint(layers["category"].nunique(), (), generator=draw))]
    first = int(torch.randint(int(layers["layer"].max()) - 4, (), generator=draw))
    band = layers[(layers["category"] == category) & layers["layer"].between(first, first + 4)]
    means = band.groupby("method")["kv_l1_loss"].mean()
    rows = {"sums": sums[0], "votes": votes[0], "sizes": sizes}
    texts = {name: " | ".join(str(int(one)) for one in row) for name, row in rows.items()}
    texts |= {"seed": seed, "course": course, "category": category, "licence": LICENCE}
    text = filled("paper.md", **texts, first=first, last=first + 4)
    key = {"h2o": " ".join(map(str, kept.tolist())), "chunkkv": " ".join(map(str, chunks.tolist()))}
    return text, key | {"l1_loss": f"{lost:.2f}", "run": f"{means['SnapKV'] - means['ChunkKV']:.4f}"}


# --- Gradescope ---------------------------------------------------------------------------------------------------


def autograder(sheet: Mapping) -> bytes:
    """Gradescope's zip: setup.sh, run_autograder, and the library's own source, which no index holds."""
    parts = {name: filled(name, sheet=sheet["name"]).encode() for name in ("setup.sh", "run_autograder")}
    own = {f"source/chunkkv_lib/exercises/sheets/{sheet['name']}.yml": Path(sheet["path"]).read_bytes()}
    return archive(library_files("source/chunkkv_lib/") | own | parts)


def library_files(below: str) -> dict[str, bytes]:
    """The library's source by its place in an archive."""
    root = Path(__file__).resolve().parents[1]
    found = sorted([*root.rglob("*.py"), *root.glob("exercises/tasks.yml")])
    return {below + path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def archive(files: Mapping[str, bytes]) -> bytes:
    """A zip that is the same every time."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            entry.external_attr = (0o755 if name in ("setup.sh", "run_autograder") else 0o644) << 16
            made.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return file.getvalue()
