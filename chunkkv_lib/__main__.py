"""The command line: `python -m chunkkv_lib measure` and `python -m chunkkv_lib book`."""

from __future__ import annotations

import argparse
import errno
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .errors import IncompleteRun, InputError, unknown

#: Errors of the system that say: not here. A disk is full or read-only, a file lies where a folder should be.
NO_PLACE = (
    errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0 done, 2 a mistake to mend, 130 interrupted, 1 a full disk or gaps."""
    parser = _parser()
    try:
        options, rest = parser.parse_known_args(arguments)
        if rest:
            known = [option for action in _actions(parser, options.command) for option in action.option_strings]
            raise unknown("option", rest[0], sorted(known))
        with _stopped_as_by_ctrl_c():
            options.run_command(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except IncompleteRun as error:
        print(f"incomplete: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept, the same command continues from there.", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in NO_PLACE:
            raise
        print(f"error: cannot write: {error}. Free some space, or choose another folder.", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _stopped_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM (a batch system's stop) ends a command as Ctrl-C does, and Ctrl-C works in a script's background too."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    try:
        before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    except ValueError:  # not in the main thread, where no signal arrives
        yield
        return
    try:
        yield
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise InputError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    description = "Measure what compressing a KV cache throws away, and build the book about it."
    parser = _Parser(prog="python -m chunkkv_lib", description=description)
    names = "{measure,verify,book,pdf,students,bench,bench-gpu}"
    commands = parser.add_subparsers(dest="command", required=True, metavar=names)
    _add_measure(commands)
    _add_verify(commands)
    _add_book(commands)
    _add_pdf(commands)
    _add_students(commands)
    _add_bench(commands)
    _add_bench_gpu(commands)
    return parser


def _add_measure(commands) -> None:
    parser = commands.add_parser(
        "measure",
        help="measure sequences with all methods into a run folder",
        description="Measure sequences with all methods into a run folder. An interrupted run continues with the same "
        "command. Options that are not given keep the profile's value.",
        allow_abbrev=False,
    )
    parser.add_argument("--profile", default="quick", help="data/profiles/NAME.yml (default: quick)")
    parser.add_argument("--run", help="name below data/runs, or a path (default: the profile's name)")
    parser.add_argument("--restart", action="store_true", help="discard the run that is there, complete or not")
    parser.add_argument("--recheck", action="store_true", help="continue a run of earlier code, if measuring 3 of its "
                        "sequences again gives the same numbers")  # fmt: skip
    where = parser.add_argument_group("where it is measured; this cannot change a number")
    where.add_argument("--engine", default="local", help="local: this process; ray: workers on a Ray cluster "
                       "(default: local)")  # fmt: skip
    where.add_argument("--address", metavar="HOST:PORT", help="of a running Ray cluster, or auto (default: a cluster "
                       "on this machine, for the time of the run)")  # fmt: skip
    where.add_argument("--workers", type=_whole, metavar="COUNT", help="Ray processes, each with a model (default: "
                       "one for each GPU; without GPUs one for each node)")  # fmt: skip
    _add_parameters(parser.add_argument_group("parameters of the run"))
    parser.set_defaults(run_command=_measure)


def _add_parameters(group) -> None:
    from dataclasses import fields

    from .runs.parameters import Parameters

    for one in fields(Parameters):
        default = ", ".join(one.default) if isinstance(one.default, tuple) else one.default
        if default is None:
            default = "none" if one.name in ("device_map", "data_path", "variants") else "the preset's"
        options = {"default": None, "help": f"{one.metadata['help']} (default: {default})"}
        if one.type == "bool":
            options["action"] = argparse.BooleanOptionalAction
        elif one.type.startswith("tuple"):
            options |= {"nargs": "+", "metavar": "NAME"}
        else:
            options |= {"type": {"int": _whole, "float": _number}.get(one.type.split(" ")[0], str), "metavar": "VALUE"}
        group.add_argument("--" + one.name.replace("_", "-"), **options)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number; give one such as 100.") from None


def _number(text: str) -> float | int:
    try:
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number; give a fraction such as 0.1, or a token count such as 512."
        ) from None


def _measure(options: argparse.Namespace) -> None:
    from dataclasses import fields

    from .runs import load_profile, measure
    from .runs.parameters import Parameters
    from .runs.verification import accept_code

    given = {one.name: getattr(options, one.name) for one in fields(Parameters)}
    parameters = load_profile(options.profile, {name: value for name, value in given.items() if value is not None})
    run = options.run or options.profile
    if options.recheck:
        accept_code(run, model=parameters.model, data_path=parameters.data_path)
    cluster = {name: getattr(options, name) for name in ("engine", "address", "workers")}
    folder = measure(parameters, run, options.restart, **cluster)
    print(folder)


def _add_verify(commands) -> None:
    parser = commands.add_parser(
        "verify",
        help="measure a few sequences of a run again and compare",
        description="Measure a random handful of a run's sequences again and compare with its records. Without a name: "
        "every published run below data/runs whose model and data are here.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="names below data/runs, or paths (default: all)")
    parser.add_argument("--count", type=_whole, default=3, help="sequences to measure again (default: 3)")
    parser.add_argument("--seed", type=_whole, help="of their choice (default: another choice every time)")
    parser.add_argument("--model", help="where this machine has the run's model, if it is a local file or folder")
    parser.add_argument("--data-path", help="where this machine has the run's data.zip or folder (default: the hub)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: as the run did)")
    parser.set_defaults(run_command=_verify)


def _verify(options: argparse.Namespace) -> None:
    from .runs.verification import verify_runs

    places = {name: getattr(options, name) for name in ("model", "data_path", "device")}
    verify_runs(options.runs, options.count, options.seed, **places)


def _add_book(commands) -> None:
    parser = commands.add_parser(
        "book",
        help="execute the chapters and build the site",
        description="Measure the profile's live run, execute every chapter with papermill, build the static site and "
        "check it.",
        allow_abbrev=False,
    )
    parser.add_argument("--profile", default="quick", help="profile of the live run (default: quick)")
    parser.add_argument(
        "-p", "--parameter", action="append", default=[], metavar="NAME=VALUE",
        help="a parameter of the chapters, as often as needed: -p budget=0.2",
    )  # fmt: skip
    parser.add_argument("--output", help="folder of the site's pages (default: _build/html)")
    parser.add_argument("--record-times", action="store_true", help="also write the chapters' execution times to "
                        "data/build_times.json, which the page of versions shows from the next build on")  # fmt: skip
    parser.set_defaults(run_command=_book)


def _book(options: argparse.Namespace) -> None:
    from .book import make_book

    make_book(options.profile, options.parameter, options.output, options.record_times)


def _add_pdf(commands) -> None:
    parser = commands.add_parser(
        "pdf",
        help="print the built site into one PDF",
        description="Print every page of the built site into one PDF, in reading order. Needs Chromium.",
        allow_abbrev=False,
    )
    parser.add_argument("--site", help="folder of the site (default: _build/html)")
    parser.add_argument("--output", help="the PDF (default: _build/book.pdf)")
    parser.set_defaults(run_command=_pdf)


def _pdf(options: argparse.Namespace) -> None:
    from .book.pdf import make_pdf

    make_pdf(options.site, options.output)


def _add_students(commands) -> None:
    parser = commands.add_parser(
        "students",
        help="write the chapters without their solutions",
        description="Write a copy of every chapter without its solutions, with empty cells to answer in.",
        allow_abbrev=False,
    )
    parser.add_argument("--output", default="students", help="folder of the copies (default: students)")
    parser.set_defaults(run_command=_students)


def _students(options: argparse.Namespace) -> None:
    from .book.students import student_copies

    for path in student_copies(options.output):
        print(path)


def _add_bench(commands) -> None:
    parser = commands.add_parser(
        "bench",
        help="time and memory against a plain prefill",
        description="Compare the analysis of one sequence with a plain prefill of the same tokens: time and peak "
        "memory, as ratios; how both grow, and the limits that they must keep.",
        allow_abbrev=False,
    )
    parser.add_argument("--lengths", nargs="+", type=_whole, default=[1024, 2048, 4096, 8192], metavar="TOKENS",
                        help="prompt lengths in tokens; a prompt that fills the model's positions is cut so that its "
                        "answer fits (default: 1024 2048 4096 8192)")  # fmt: skip
    parser.add_argument("--repeats", type=_whole, default=5, help="timed runs of each, the median counts (default: 5)")
    parser.add_argument("--model", default="smollm2-135m", help="as for measure (default: smollm2-135m)")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16 (default: float32)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--peers", action="store_true", help="also measure kvpress, in an environment of its own that "
                        "is installed once, about 1.5 GB (default: no)")  # fmt: skip
    parser.add_argument("--peer-repeats", type=_whole, help="timed runs of the peer (default: as --repeats)")
    parser.add_argument("--output", default="data/bench/latest.json", help="JSON (default: data/bench/latest.json)")
    parser.set_defaults(run_command=_bench)


def _bench(options: argparse.Namespace) -> None:
    from .bench import bench

    names = ("repeats", "model", "dtype", "device", "output", "peers", "peer_repeats")
    bench(tuple(options.lengths), **{name: getattr(options, name) for name in names})


def _add_bench_gpu(commands) -> None:
    parser = commands.add_parser(
        "bench-gpu",
        help="the same on a GPU, with a random model of Llama-3-8B's shape",
        description="Time plain prefill, the complete analysis and its parts on a GPU, with random weights in "
        "bfloat16, against the speed of a large matrix product and of a large copy.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--tokens", type=_whole, nargs="+", default=[7950, 32768], dest="lengths",
        help="tokens of the prompts (default: 7950 32768)",
    )  # fmt: skip
    parser.add_argument("--repeats", type=_whole, default=5, help="timed runs of each, the median counts (default: 5)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1; cpu only tries the code (default: cuda)")
    parser.add_argument("--shape", default="llama-3-8b", help="of the model: llama-3-8b or tiny (default: llama-3-8b)")
    place = "data/bench/gpu.json"
    parser.add_argument("--output", default=place, help=f"JSON (default: {place})")
    parser.set_defaults(run_command=_bench_gpu)


def _bench_gpu(options: argparse.Namespace) -> None:
    from .bench.gpu import bench_gpu

    bench_gpu(tuple(options.lengths), options.repeats, options.device, options.shape, options.output)


def _actions(parser: argparse.ArgumentParser, command: str) -> list[argparse.Action]:
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return commands.choices[command]._actions


if __name__ == "__main__":
    sys.exit(main())
