"""The Ray engine: a run's sequences shared out to workers on one machine or a cluster, one model each.

A worker only answers; the driver alone writes, so a worker or node that dies takes nothing with it but the sequence it
was at. It imports Ray inside functions: nothing else of the library needs it.
"""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ..errors import InputError
from ..models import EMBEDDED, describe, load_model, load_tokenizer
from ..sequences import Sequence
from .driver import code_hash, differences, machine, measure_one, versions
from .parameters import Parameters

TRIES = 3  # of a sequence before it is given up, and of starting workers before their number is lowered
HOPELESS = 9  # failures before anything succeeds: then it is not the sequences
PATIENCE = 60  # seconds without any worker before the user is told what the run waits for
LIBRARY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Answer:
    """What a worker says: a value, or the text of a user's mistake, or the traceback of any other exception."""

    value: object = None
    mistake: str = ""
    failure: str = ""
    seconds: float = 0.0


class Worker:
    """One process with one model. Its methods return an `Answer` and never raise, so that no error depends on Ray."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters

    def load(self) -> Answer:
        """Load the model; the value says what a manifest must know about it and about this process."""
        return _answer(self._load)

    def analyse(self, sequence: Sequence) -> Answer:
        """Measure one sequence; the value is the two DataFrames of `driver.measure_one`."""
        return _answer(lambda: measure_one(self.model, self.tokenizer, sequence, self.parameters))

    def _load(self) -> dict:
        settings = self.parameters
        self.model, self.tokenizer = load_model(settings.model, settings.device, settings.dtype, settings.device_map)
        same = {"model": describe(self.model, settings.model), "code": code_hash(), "versions": versions()}
        return same | {"machine": machine(), "node": socket.gethostname()}


def _answer(work: Callable[[], object]) -> Answer:
    started = time.monotonic()
    try:
        return Answer(work(), seconds=time.monotonic() - started)
    except InputError as error:
        return Answer(mistake=str(error))
    except Exception:
        return Answer(failure=traceback.format_exc())


@dataclass
class Hired:
    """The driver's side of a worker; its rate is tokens over the seconds it spent measuring."""

    number: int
    actor: object
    tokens: int = 0
    seconds: float = 0.0


class RayEngine:
    """Workers on a Ray cluster, as a context manager: entering starts them, leaving ends them.

    address  of a running cluster, "auto" or "host:port"; None: a cluster on this machine, for the time of the run
    workers  processes with a model; None: one for each GPU, without GPUs one for each node
    model    the workers' description of their model, once entered
    failed   sequence -> why it was given up after `TRIES` tries
    raises   InputError: no Ray, no such cluster, more workers than fit, workers that would not measure the same
    """

    def __init__(
        self, parameters: Parameters, address: str | None, workers: int | None, report: Callable[[str], None]
    ) -> None:
        _check(parameters, workers)
        self.parameters, self.address, self.workers, self.report = _absolute(parameters), address, workers, report
        self.idle: deque[Hired] = deque()
        self.pending: dict[object, tuple[Hired, Sequence | None]] = {}  # None: the worker is loading its model
        self.failed: dict[str, str] = {}
        self.expected: dict[str, object] = {"code": code_hash(), "versions": versions()}
        self.machine: dict[str, object] = {}
        self.hired = self.stillborn = 0

    def __enter__(self) -> RayEngine:
        load_tokenizer(self.parameters.model)  # a wrong name is told now, and workers here find the download done
        try:
            _connect(self.address)
            self._plan()
            self.report(f"Starting {self.workers} workers, each with {self.parameters.model} ...")
            self._hire(self.workers)
            while not self.idle:
                worker, _, answer = self._next()
                self._started(worker, answer)
        except BaseException:
            self.__exit__()
            raise
        self.model = self.expected["model"]
        return self

    def __exit__(self, *exception: object) -> None:
        import ray

        ray.shutdown()

    def measured(self, sequences: list[Sequence]) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
        """Yield (sequence id, layers, answers) as they finish, in any order; `failed` then holds the rest.

        Longest first, so that no worker is left with a long one when the others are through.
        """
        waiting = deque(sorted(sequences, key=lambda sequence: -len(sequence.prompt_ids)))
        tries, finished = Counter(), 0
        while waiting or self._at_work():
            self._hire(min(self.workers, len(waiting) + self._at_work()))
            self._hand_out(waiting)
            worker, sequence, answer = self._next()
            if sequence is None:
                self._started(worker, answer)
            elif answer.failure:
                self._dismiss(worker)
                tries[sequence.id] += 1
                if not finished and tries.total() >= HOPELESS:
                    raise RuntimeError(f"no sequence can be measured; the last worker said:\n{answer.failure}")
                if not self._given_up(sequence, tries[sequence.id], answer.failure):
                    waiting.append(sequence)
            else:
                finished += 1
                worker.tokens += len(sequence.prompt_ids)
                worker.seconds += answer.seconds
                self.idle.append(worker)
                yield sequence.id, *answer.value

    def rates(self) -> str:
        """Tokens per second of each worker, or their range if there are many."""
        alive = sorted([*self.idle, *(worker for worker, _ in self.pending.values())], key=lambda one: one.number)
        rates = [one.tokens / one.seconds for one in alive if one.seconds]
        if len(rates) > 8:
            return f", {len(rates)} workers at {min(rates):.0f} to {max(rates):.0f}"
        return f", workers {' + '.join(f'{rate:.0f}' for rate in rates)}" if rates else ""

    def _at_work(self) -> int:
        return sum(sequence is not None for _, sequence in self.pending.values())

    def _plan(self) -> None:
        """How many workers, and what each may use: a GPU, or an equal share of a node's cores."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        kind = "GPU" if self.parameters.device != "cpu" and any(node.get("GPU") for node in nodes) else "CPU"
        nodes = [node for node in nodes if node.get(kind, 0) >= 1]
        places = sum(int(node[kind]) for node in nodes)
        wanted = self.workers or (places if kind == "GPU" else len(nodes))
        if not 0 < wanted <= places:
            raise InputError(
                f"workers={wanted} does not fit: the cluster has {places} {kind}s, and each worker needs one. "
                f"Pass --workers {places} or less, or add nodes."
            )
        if kind == "GPU":
            cores = min(int(node.get("CPU", 0) // node["GPU"]) for node in nodes)
        else:
            cores = max(n for n in range(1, places + 1) if sum(node["CPU"] // n for node in nodes) >= wanted)
        self.workers, self.resources = wanted, {"num_cpus": cores, "num_gpus": int(kind == "GPU")}

    def _hire(self, wanted: int) -> None:
        """Start workers until there are `wanted`; one that died is replaced by a new process, where there is room."""
        import ray

        actor = ray.remote(**self.resources)(Worker)  # no restarts by Ray: the driver decides what is tried again
        while len(self.idle) + len(self.pending) < wanted:
            self.hired += 1
            worker = Hired(self.hired, actor.remote(self.parameters))
            self.pending[worker.actor.load.remote()] = worker, None

    def _hand_out(self, waiting: deque[Sequence]) -> None:
        while waiting and self.idle:
            worker, sequence = self.idle.popleft(), waiting.popleft()
            gold = sequence.answers if self.parameters.max_new_tokens else ()  # a worker scores what it writes
            lean = replace(sequence, prompt_text=None, evidence=(), answers=gold)  # other texts stay with the driver
            self.pending[worker.actor.analyse.remote(lean)] = worker, sequence

    def _next(self) -> tuple[Hired, Sequence | None, Answer]:
        """The next answer of any worker; a worker that died answers with a failure."""
        import ray

        while not (ready := ray.wait(list(self.pending), timeout=PATIENCE)[0]):
            if not self.idle and not self._at_work():
                self.report("No worker could start yet; waiting for a free place in the cluster (Ctrl-C stops).")
        worker, sequence = self.pending.pop(ready[0])
        try:
            answer = ray.get(ready[0])
        except ray.exceptions.RayError as error:
            answer = Answer(failure=f"the worker died, or its node did ({type(error).__name__})")
        if answer.mistake:
            raise InputError(answer.mistake)
        return worker, sequence, answer

    def _started(self, worker: Hired, answer: Answer) -> None:
        """Let a worker join if it measures as the others do; after failed starts go on with those that there are."""
        if not answer.failure:
            self.stillborn = 0
            self._same(answer.value)
            self.idle.append(worker)
            return
        self._dismiss(worker)
        self.stillborn += 1
        self.report(f"Worker {worker.number} could not start: {_last_line(answer.failure)}")
        if self.stillborn >= TRIES:
            self.stillborn, self.workers = 0, len(self.idle) + len(self.pending)
            if not self.workers:
                raise InputError(
                    f"{TRIES} workers could not load {self.parameters.model}: {_last_line(answer.failure)}. Lower "
                    "--workers if memory is short; --engine local shows an error in full."
                )
        elif not self.idle and not self.pending:
            self._hire(1)

    def _same(self, found: dict) -> None:
        """Refuse a worker whose records would not belong to the same run; remember what the workers run on."""
        self.expected.setdefault("model", found["model"])
        if changed := differences(self.expected, {name: found[name] for name in self.expected}):
            raise InputError(
                f"a worker on {found['node']} would measure something else: {changed[0]}. Use the same packages, model "
                "and kind of device on every node."
            )
        gpus = sorted({*self.machine.get("gpus", ()), *found["machine"].get("gpus", ())})
        self.machine = found["machine"] | {"workers": self.workers} | ({"gpus": gpus} if gpus else {})

    def _given_up(self, sequence: Sequence, tries: int, failure: str) -> bool:
        why = _last_line(failure)
        self.report(f"Sequence {sequence.id} failed, try {tries} of {TRIES}: {why}")
        if tries == TRIES:
            self.failed[sequence.id] = why
        return tries == TRIES

    def _dismiss(self, worker: Hired) -> None:
        """End a worker's process: after an error its GPU may be in no state to measure anything."""
        import ray

        ray.kill(worker.actor)


def _check(parameters: Parameters, workers: int | None) -> None:
    """Refuse what cannot work before anything is started."""
    if workers is not None and workers < 1:
        raise InputError(f"workers={workers} does not work; it must be at least 1.")
    if parameters.device_map or ":" in parameters.device:
        given = f"device_map={parameters.device_map}" if parameters.device_map else f"device={parameters.device}"
        raise InputError(f"{given} does not go with --engine ray, which gives each worker one GPU. Leave it out.")
    try:
        import ray
    except ImportError:
        raise InputError("--engine ray needs Ray. Install it with: pip install -r requirements-ray.txt") from None
    if ray.is_initialized():
        raise InputError("this process is connected to a Ray cluster already. Call ray.shutdown() first.")


def _connect(address: str | None) -> None:
    import ray

    options = {"include_dashboard": False} if address is None else {}
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a private cluster tells nobody
    elif address != "auto" and "://" not in address:
        _probe(address)
    try:
        ray.init(
            address=address or "local", log_to_driver=False, logging_level="ERROR",
            runtime_env={"py_modules": [str(LIBRARY)]}, **options,  # every node runs the driver's code
        )  # fmt: skip
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise _no_cluster(address, _last_line(str(error))) from error


def _probe(address: str) -> None:
    """Whether anybody listens at host:port; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str | None, reason: str) -> InputError:
    if address is None:
        return InputError(f"Ray could not start on this machine: {reason}. Use --engine local, or mend what it names.")
    return InputError(
        f"no Ray cluster to use at address={address!r}: {reason}. Start one with `ray start --head --port=6379` and "
        "pass host:6379; set RAY_AUTH_MODE=token if it was started with a token; or leave out --address."
    )


def _absolute(parameters: Parameters) -> Parameters:
    """A local model by its full path: workers may stand in another folder."""
    path = Path(parameters.model).expanduser()
    return parameters if parameters.model in EMBEDDED or not path.exists() else replace(
        parameters, model=str(path.resolve())
    )  # fmt: skip


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else "no reason given")[:200].rstrip(".")
