"""The command line: `python -m chunkkv_lib measure`, `book`, ... One function below is one command.

A command imports what it needs inside its function, so that every `--help` answers at once.
"""

import dataclasses
import errno
import inspect
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from .errors import IncompleteRun, InputError
from .runs.parameters import Parameters

#: Errors of the system that say: not here. A disk is full or read-only, a file lies where a folder should be.
NO_PLACE = {
    errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR,
}  # fmt: skip
PROGRAM = "python -m chunkkv_lib"
UsageError = typer.BadParameter.__bases__[0]  # what typer raises for every mistake on a command line

app = typer.Typer(
    help="Measure what compressing a KV cache throws away, and build the book about it.",
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
)  # fmt: skip


def number(text: str) -> float | int:
    """A count such as 512 as an int, anything else as a float."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    raise typer.BadParameter(f"{text!r} is not a number; give a fraction such as 0.1, or a token count such as 512")


#: Type of a parameter -> that of its option, and what else the option is made of.
KINDS = {
    "bool": (bool, {}),
    "int": (int, {}),
    "str": (str, {}),
    "float | int": (float, {"parser": number, "metavar": "NUMBER"}),
    "tuple[str, ...]": (list[str], {"metavar": "NAME,NAME"}),
}


def with_parameters(command):
    """The command with an option for every field of `Parameters`; those that are given arrive as keyword arguments."""
    options = []
    for field in dataclasses.fields(Parameters):
        default = ", ".join(field.default) if isinstance(field.default, tuple) else field.default
        text = f"{field.metadata['help']} (default: {'none' if default in (None, '') else default})"
        kind, more = KINDS[field.type.removesuffix(" | None")]
        option = Annotated[kind | None, Option(help=text, show_default=False, **more)]
        options.append(inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option))
    own = inspect.signature(command, eval_str=True)
    named = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    command.__signature__ = own.replace(parameters=[*named, *options])
    return command


@app.command()
@with_parameters
def measure(
    *,
    profile: Annotated[str, Option(help="data/profiles/NAME.yml")] = "quick",
    run: Annotated[str | None, Option(help="a name below runs/, or a path (default: the profile's name)")] = None,
    restart: Annotated[bool, Option("--restart", help="replace the run that is there, complete or not")] = False,
    publish: Annotated[bool, Option("--publish", help="the run is one of the project's, below data/runs")] = False,
    engine: Annotated[str, Option(help="local: this process; ray: a Ray cluster")] = "local",
    address: Annotated[str | None, Option(help="HOST:PORT of a Ray cluster, or auto (default: a new one here)")] = None,
    workers: Annotated[int | None, Option(help="Ray processes, a model each (default: one a GPU, or node)")] = None,
    **given: object,
) -> None:
    """Measure sequences with all methods into a run folder.

    An interrupted run continues with the same command. Options that are not given keep the profile's value.
    """
    from .runs import load_profile
    from .runs import measure as measure_run

    for name, value in given.items():
        if isinstance(value, list):
            given[name] = [part.strip() for text in value for part in text.split(",")]
    parameters = load_profile(profile, {name: value for name, value in given.items() if value not in (None, [])})
    where = {"engine": engine, "address": address, "workers": workers, "publish": publish}
    print(measure_run(parameters, run or profile, restart, **where))


@app.command()
def verify(
    runs: Annotated[list[str] | None, Argument(help="names of runs, or paths (default: every published run)")] = None,
    count: Annotated[int, Option(help="sequences to measure again")] = 3,
    seed: Annotated[int | None, Option(help="of their choice (default: another choice every time)")] = None,
    model: Annotated[str | None, Option(help="where this machine has the run's model, if it is a local one")] = None,
    data_path: Annotated[
        str | None, Option(help="where it has the run's data.zip or folder (default: the hub)")
    ] = None,
    device: Annotated[str | None, Option(help="cpu, cuda, ... (default: as the run did)")] = None,
) -> None:
    """Measure a random handful of a run's sequences again and compare with its records."""
    from .runs.verification import verify_runs

    verify_runs(runs or (), count, seed, model=model, data_path=data_path, device=device)


@app.command()
def book(
    profile: Annotated[str | None, Option(help="of a live run to show (default: the published runs)")] = None,
    parameter: Annotated[
        list[str] | None,
        Option("-p", "--parameter", metavar="NAME=VALUE", help="a parameter of the chapters, as often as needed"),
    ] = None,
    output: Annotated[str | None, Option(help="folder (default: _build/html, or html-without-solutions)")] = None,
    without_solutions: Annotated[
        bool, Option("--without-solutions", help="leave the exercises' solutions out")
    ] = False,
) -> None:
    """Execute every chapter, on the published runs or on a live one, and build the static site."""
    from .book.build import build_book

    build_book(profile, parameter or (), output, solutions=not without_solutions)


@app.command()
def pdf(
    site: Annotated[str | None, Option(help="folder of the site (default: _build/html)")] = None,
    output: Annotated[str | None, Option(help="the PDF (default: _build/book.pdf); beside it, summary.pdf")] = None,
    without_solutions: Annotated[
        bool, Option("--without-solutions", help="print the site built without solutions")
    ] = False,
) -> None:
    """Print every page of the built site into one PDF, in reading order. Needs Chromium."""
    from .book.pdf import make_pdf

    make_pdf(site, output, solutions=not without_solutions)


@app.command()
def deck(output: Annotated[str, Option(help="the page")] = "_build/lecture.html") -> None:
    """Write the slides of the lecture of 90 minutes, on the recorded runs: one HTML file, no network."""
    from .book import project_root
    from .book.deck import write_deck

    site = os.path.relpath(project_root() / "_build" / "html", Path(output).resolve().parent)
    print(write_deck(project_root(), output, f"{Path(site).as_posix()}/"))


@app.command()
def students(
    output: Annotated[str, Option(help="folder of the copies")] = "students",
    force: Annotated[bool, Option("--force", help="replace copies even where somebody has worked in them")] = False,
) -> None:
    """Write a copy of every chapter without its solutions, with empty cells to answer in."""
    from .book.students import student_copies

    for path in student_copies(output, force):
        print(path)


@app.command()
def homework(
    sheet: Annotated[str, Argument(help="three-rules, metrics, own-method, or a YAML file of your own")],
    course: Annotated[str, Option(help="printed on every sheet")] = "",
    students: Annotated[int, Option(help="paper sheets of twelve tokens, each with other numbers, and their key")] = 0,
    output: Annotated[str, Option(help="folder; nothing in it is replaced")] = "homework",
) -> None:
    """Write a hand-out that stands alone, its solutions and marking scheme, and an autograder for Gradescope."""
    from .exercises.homework import homework as write_homework

    for path in write_homework(sheet, course, students, output):
        print(path)


@app.command()
def grade(
    folder: Annotated[str, Argument(help="of submissions: notebooks, .py files, or a folder for each")],
    sheet: Annotated[str, Option(help="as for homework", show_default=False)],
    csv: Annotated[str, Option("--csv", help="points and feedback, a row for each submission")] = "grades.csv",
    seed: Annotated[int, Option(help="of the hidden inputs; keep it to yourself")] = 0,
    seconds: Annotated[int, Option(help="time limit of each function")] = 60,
) -> None:
    """Grade submissions on hidden inputs. Not a sandbox: run it where a malicious notebook can do no harm."""
    from .exercises.grading import grade as grade_folder

    grade_folder(folder, sheet, csv, seed, seconds)
    print(csv)


@app.command()
def tidy(notebooks: Annotated[list[str] | None, Argument(help="notebooks (default: all chapters)")] = None) -> None:
    """Remove what an execution left in notebooks and make their cells' ids stable, before a commit."""
    from .book.chapters import tidy_files

    tidy_files(notebooks or ())


@app.command()
def lab(
    text: Annotated[str, Argument(help="a text file, UTF-8, up to 4,000 tokens")],
    question: Annotated[str, Option(help="about the text; it is put at its end", show_default=False)],
    answer: Annotated[str, Option(help="the right one, best in the text's own words", show_default=False)],
    model: Annotated[str, Option(help="as for measure")] = "smollm2-135m",
    output: Annotated[str | None, Option(help="the page (default: the text's name, with -lab.html)")] = None,
) -> None:
    """Write a page in which every rule can be changed, for your own text: one HTML file, no network."""
    from .lab import write_lab

    try:
        read = Path(text).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = "is no UTF-8 text" if isinstance(error, ValueError) else f"cannot be read ({error.strerror})"
        raise InputError(f"text={text!r} {why}; name a plain text file.") from None
    print(write_lab(read, question, answer, model, output or f"{Path(text).stem}-lab.html"))


@app.command()
def bench(
    lengths: Annotated[list[int], Option(help="tokens of a prompt, as often as needed")] = (1024, 2048, 4096, 8192),
    rounds: Annotated[int, Option(help="timed runs of every step, in turns; the median counts")] = 5,
    model: Annotated[str, Option(help="as for measure")] = "smollm2-135m",
    dtype: Annotated[str | None, Option(help="as for measure (default: float32 on a CPU, bfloat16 on a GPU)")] = None,
    device: Annotated[str, Option(help="cpu or cuda")] = "cpu",
    peers: Annotated[bool, Option("--peers", help="also kvpress, which is installed apart once, about 1.5 GB")] = False,
    guests: Annotated[bool, Option("--guests", help="instead compare the tokens that kvpress keeps with ours")] = False,
    output: Annotated[str | None, Option(help="default: data/bench/latest.json, or guests.csv with --guests")] = None,
) -> None:
    """Compare time and memory of the analysis of one sequence with a plain prefill of the same tokens."""
    if guests:
        from .book.guests import compare_guests

        return print(compare_guests(model, output=output or "data/bench/guests.csv").round(4).to_string(index=False))
    from .bench import bench as run_bench

    run_bench(tuple(lengths), rounds, model, dtype, device, peers, output or "data/bench/latest.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0 done, 2 a mistake to mend, 130 interrupted, 1 a full disk or gaps."""
    # A batch system's stop ends a command as Ctrl-C does, and Ctrl-C works in a script's background too.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        status = typer.main.get_command(app).main(arguments, prog_name=PROGRAM, standalone_mode=False) or 0
    except UsageError as error:
        place = error.ctx.command_path if error.ctx else PROGRAM
        print(f"error: {error.format_message()} (see {place} --help)", file=sys.stderr)
        return 2
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except IncompleteRun as error:
        print(f"incomplete: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in NO_PLACE:
            raise
        print(f"error: cannot write: {error}. Free some space, or choose another folder.", file=sys.stderr)
        return 1
    if status == 130:
        print("interrupted; what is finished is kept, and of a run the same command continues.", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
