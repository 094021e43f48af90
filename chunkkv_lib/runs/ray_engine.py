"""The Ray engine: a run's sequences shared out to workers on one machine or a cluster, one model each.

A lost worker is replaced; the driver alone writes, so whatever dies takes nothing with it but the sequence it was
at, which is tried again. (Ray's ActorPool does not say at which sequence a worker died: the loop here is our own.)
"""

import os
import socket
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Self

import pandas as pd

from ..errors import InputError, check_whole
from ..models import EMBEDDED, describe, load_model
from ..sequences import Sequence
from .driver import measure_one
from .identity import MEASUREMENT_VERSION, differences, machine, versions
from .parameters import Parameters

TRIES = 3  # of a sequence before it is given up
HOPELESS = 9  # failures before anything succeeds: then it is not the sequences
PATIENCE = 60  # seconds without an answer before the user is told that the run waits
LIBRARY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Answer:
    """What a worker says: who it is, and two tables or the text of a user's mistake or of any other exception."""

    sequence: str = ""
    tables: tuple[pd.DataFrame, ...] = ()
    mistake: str = ""
    failure: str = ""
    same: dict = field(default_factory=dict)  # for all workers: model, packages, version of the measurement
    machine: dict = field(default_factory=dict)
    node: str = ""


class Worker:
    """One process with one model, loaded when first needed: Ray may start the process anew at any time."""

    def __init__(self, settings: Parameters) -> None:
        self.settings, self.me = settings, None

    def analyse(self, sequence: Sequence | None) -> Answer:
        """Measure one sequence; None: only load the model. Never raises, so that no error depends on Ray."""
        name = sequence.id if sequence else ""
        try:
            if self.me is None:
                settings = self.settings
                self.model, self.tokenizer = load_model(settings.model, settings.device, settings.dtype)
                same = {"model": describe(self.model, settings.model), "versions": versions()}
                same["measurement_version"] = MEASUREMENT_VERSION
                self.me = {"same": same, "machine": machine(), "node": socket.gethostname()}
            tables = measure_one(self.model, self.tokenizer, sequence, self.settings) if sequence else ()
            return Answer(name, tables, **self.me)
        except InputError as error:
            return Answer(name, mistake=str(error))
        except Exception:
            return Answer(name, failure=traceback.format_exc())


class RayEngine:
    """Workers on a Ray cluster, as a context manager: entering starts them, leaving ends them; see `local_engine`.

    `address` and `workers` are those of `driver.measure`. InputError: no Ray, no such cluster, more workers than fit,
    workers that would not measure the same.
    """

    def __init__(
        self, settings: Parameters, address: str | None, workers: int | None, report: Callable[[str], None]
    ) -> None:
        if workers is not None:
            check_whole(workers=workers)
        if settings.device_map or ":" in settings.device:
            given = f"device_map={settings.device_map}" if settings.device_map else f"device={settings.device}"
            raise InputError(f"{given} does not go with --engine ray, which gives each worker one GPU. Leave it out.")
        try:
            import ray
        except ImportError:
            raise InputError("--engine ray needs Ray. Install it with: pip install -r requirements-ray.txt") from None
        if ray.is_initialized():
            raise InputError("this process is connected to a Ray cluster already. Call ray.shutdown() first.")
        self.ray = ray  # nothing else of the library needs it
        local = settings.model not in EMBEDDED and Path(settings.model).expanduser().exists()
        full = str(Path(settings.model).expanduser().resolve())  # workers may stand in another folder
        self.settings = replace(settings, model=full) if local else settings
        self.address, self.workers, self.report = address, workers, report
        self.failed: dict[str, str] = {}
        self.idle: list = []
        self.at_work: dict[object, tuple[object, str]] = {}  # answer to come -> worker, sequence ("": it loads a model)
        self.same: dict[str, object] = {"versions": versions(), "measurement_version": MEASUREMENT_VERSION}
        self.machine: dict[str, object] = {}

    def __enter__(self) -> Self:
        try:
            _connect(self.ray, self.address)
            self._start()
            while "model" not in self.same:  # others may join later
                self._next()
        except BaseException:
            self.__exit__()
            raise
        self.model = self.same["model"]
        return self

    def __exit__(self, *exception: object) -> None:
        self.ray.shutdown()

    def measured(self, sequences: list[Sequence]) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
        """Yield (sequence id, layers, answers) as they finish, in any order; `failed` then holds the rest.

        Longest first, so that no worker is left with a long one when the others are through.
        """
        waiting = deque(sorted(sequences, key=lambda one: -len(one.prompt_ids)))
        by_name, tries, finished = {one.id: one for one in sequences}, Counter(), False
        while waiting or any(name for _, name in self.at_work.values()):
            while waiting and self.idle:
                actor, one = self.idle.pop(), waiting.popleft()
                gold = one.answers if self.settings.max_new_tokens else ()  # a worker scores what it writes
                lean = replace(one, prompt_text=None, evidence=(), answers=gold)  # other texts stay here
                self.at_work[actor.analyse.remote(lean)] = actor, one.id
            answer = self._next()
            if not answer.failure and answer.tables:
                finished = True
                yield answer.sequence, *answer.tables
            elif answer.failure and (name := answer.sequence):
                tries[name] += 1
                why = _last_line(answer.failure)
                self.report(f"Sequence {name} failed, try {tries[name]} of {TRIES}: {why}")
                if not finished and tries.total() >= HOPELESS:
                    raise RuntimeError(f"no sequence can be measured; the last worker said:\n{answer.failure}")
                if tries[name] < TRIES:
                    waiting.append(by_name[name])
                else:
                    self.failed[name] = why

    def _start(self) -> None:
        """Start workers, as many as fit: each uses a GPU, or an equal share of a node's cores."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        kind = "GPU" if self.settings.device != "cpu" and any(node.get("GPU") for node in nodes) else "CPU"
        nodes = [node for node in nodes if node.get(kind, 0) >= 1]
        places = sum(int(node[kind]) for node in nodes)
        wanted = self.workers or (places if kind == "GPU" else len(nodes))
        if not 0 < wanted <= places:
            there = f"the cluster has {places} {kind}s, and each worker needs one"
            raise InputError(f"workers={wanted} does not fit: {there}. Pass --workers {places} or less, or add nodes.")
        if kind == "GPU":
            cores = min(int(node.get("CPU", 0) // node["GPU"]) for node in nodes)
        else:
            cores = max(n for n in range(1, places + 1) if sum(node["CPU"] // n for node in nodes) >= wanted)
        self.report(f"Starting {wanted} workers, each with {self.settings.model} ...")
        self.machine["workers"] = wanted
        self.options = {"num_cpus": cores, "num_gpus": int(kind == "GPU"), "max_restarts": -1}
        for _ in range(wanted):
            self._load(TRIES - 1)

    def _load(self, retries: int) -> None:
        """Let a new worker load its model before it gets a sequence; -1: Ray tries until there is a place for it."""
        actor = self.ray.remote(**self.options)(Worker).remote(self.settings)
        self.at_work[actor.analyse.options(max_task_retries=retries).remote(None)] = actor, ""

    def _next(self) -> Answer:
        """The next answer of any worker, which is then free again, or starts anew after a failure."""
        while not (ready := self.ray.wait(list(self.at_work), timeout=PATIENCE)[0]):
            self.report(f"No worker answered for {PATIENCE} s; waiting for one, or for a free place (Ctrl-C stops).")
        actor, name = self.at_work.pop(ready[0])
        try:
            answer = self.ray.get(ready[0])
        except self.ray.exceptions.RayError as error:
            answer = Answer(name, failure=f"the worker died, or its node did ({type(error).__name__})")
        if answer.mistake:
            raise InputError(answer.mistake)
        if not answer.failure:
            self._same(answer)
            self.idle.append(actor)
            return answer
        # It died, or its GPU may be in no state to measure anything. Another worker takes its place: were the same one
        # started anew, its end, which comes when Ray gets round to it, could hit the next sequence.
        self.ray.kill(actor)
        if name:
            self._load(-1)
        else:
            self.report(f"A worker could not start: {_last_line(answer.failure)}")
            if not self.idle and not self.at_work:
                remedy = "Lower --workers if memory is short; --engine local shows an error in full."
                raise InputError(f"no worker could load {self.settings.model}: {_last_line(answer.failure)}. {remedy}")
        return answer

    def _same(self, answer: Answer) -> None:
        """Refuse a worker whose records would not belong to the same run; remember what the workers run on."""
        self.same.setdefault("model", answer.same["model"])
        if changed := differences(self.same, answer.same):
            remedy = "Use the same packages, model and kind of device on every node."
            raise InputError(f"a worker on {answer.node} would measure something else: {changed[0]}. {remedy}")
        gpus = sorted({*self.machine.get("gpus", ()), *answer.machine.get("gpus", ())})
        self.machine = answer.machine | self.machine | ({"gpus": gpus} if gpus else {})


def _connect(ray: ModuleType, address: str | None) -> None:
    options = {"address": "local", "include_dashboard": False} if address is None else {"address": address}
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a private cluster tells nobody
    try:
        if address not in (None, "auto") and "://" not in address:  # Ray itself would try for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(
            log_to_driver=False, logging_level="ERROR", **options,
            runtime_env={"py_modules": [str(LIBRARY)]},  # every node runs the driver's code
        )  # fmt: skip
    except (OSError, ValueError, OverflowError, RuntimeError, ray.exceptions.RayError) as error:
        reason = _last_line(str(error))
        raise InputError(
            f"Ray could not start on this machine: {reason}. Use --engine local, or mend what it names."
            if address is None
            else f"no Ray cluster to use at address={address!r}: {reason}. Start one with `ray start --head "
            "--port=6379` and pass host:6379; set RAY_AUTH_MODE=token if it was started with a token; or leave out "
            "--address."
        ) from error


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else "no reason given")[:200].rstrip(".")
