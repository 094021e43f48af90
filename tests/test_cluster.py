"""The Ray engine on a real cluster of processes on this machine: the same records, whatever dies."""

import os
import signal
import subprocess
import sys
import time

import pytest
from common import refused
from tiny import command, measured, tables

from chunkkv_lib.__main__ import main
from chunkkv_lib.errors import IncompleteRun, InputError
from chunkkv_lib.runs import load_run
from chunkkv_lib.runs import ray_engine as cluster
from chunkkv_lib.runs.folder import Recorder

LONG = {"max_tokens": 900}  # sequences of many lengths


ONE = os.environ | {"OMP_NUM_THREADS": "1"}


def measure_locally(setting, run, **changes):
    """The local engine in a process that starts with one thread, as the workers of `nodes` do: a process that started
    with more rounds some last bits differently, even after `torch.set_num_threads(1)`."""
    subprocess.run(command(setting, run, **(changes or LONG)), check=True, capture_output=True, env=ONE)
    return run


@pytest.fixture(scope="module")
def finished(setting, nodes, tmp_path_factory):
    """The run that the local engine makes."""
    return measure_locally(setting, tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture(scope="module")
def nodes():
    """A cluster of one node with two cores, whose workers compute on one thread however many cores they are given."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OMP_NUM_THREADS", "1")
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        yield started
        started.shutdown()


@pytest.fixture
def on_ray(setting, nodes, tmp_path):
    """Measures on the cluster with two workers; its `lines` are what was reported."""

    def run(name: str = "run", **changes):
        ray = {"engine": "ray", "address": nodes.address, "workers": 2}
        return measured(setting, tmp_path / name, run.lines.append, ray, **LONG | changes)

    run.lines = []
    return run


def worker(deadly: str = "", broken: str = "", marker: str = "", seconds: float = 0) -> type:
    """A worker that is killed by one sequence (once, if there is a marker file to leave) and fails at another ("all":
    at any), or takes longer."""

    class Mortal(cluster.Worker):  # a class of its own in every call: Ray then sends it to the workers by value
        def analyse(self, sequence):
            name = sequence.id if sequence else ""
            if name and name == deadly and not (marker and os.path.exists(marker)):
                if marker:
                    open(marker, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            if name and broken in (name, "all"):
                super().analyse(None)
                self.model = None
            time.sleep(seconds)
            return super().analyse(sequence)

    return Mortal


def test_the_records_are_those_of_the_local_engine(on_ray, finished, monkeypatch):
    order = []
    add = Recorder.add
    monkeypatch.setattr(Recorder, "add", lambda self, name, *frames: (order.append(name), add(self, name, *frames)))
    folder = on_ray()
    assert tables(folder) == tables(finished)
    manifest = load_run(folder).manifest
    assert manifest["status"] == "complete" and manifest["machine"]["workers"] == 2
    assert manifest["machine"]["threads"] == 1 and "engine" not in manifest["parameters"]
    assert manifest["model"] == load_run(finished).manifest["model"]
    tokens = load_run(finished).sequences.set_index("sequence")["prompt_tokens"]
    assert tokens[order[0]] > tokens[order[-1]], "longest first"


def test_a_killed_worker_loses_nothing(on_ray, finished, tmp_path, monkeypatch):
    victim = load_run(finished).sequences["sequence"][3]
    monkeypatch.setattr(cluster, "Worker", worker(deadly=victim, marker=str(tmp_path / "killed")))
    assert tables(on_ray()) == tables(finished)
    assert [line for line in on_ray.lines if victim in line and "try 1 of 3: the worker died" in line]
    assert not [line for line in on_ray.lines if "try 2" in line]


def test_a_killed_node_loses_nothing(on_ray, finished, nodes, monkeypatch):
    node = nodes.add_node(num_cpus=2)
    add = Recorder.add

    def add_and_kill(self, name, *frames):
        add(self, name, *frames)
        if len(self.done) == 2:
            nodes.remove_node(node, allow_graceful=False)

    monkeypatch.setattr(Recorder, "add", add_and_kill)
    monkeypatch.setattr(cluster, "Worker", worker(seconds=2))
    assert tables(on_ray()) == tables(finished)
    assert node not in nodes.worker_nodes and [line for line in on_ray.lines if "its node did" in line]


def test_poisoned_sequences_are_named_and_the_rest_is_measured(on_ray, setting, finished, tmp_path, monkeypatch):
    deadly, broken = load_run(finished).sequences["sequence"][[1, 6]]
    monkeypatch.setattr(cluster, "Worker", worker(deadly, broken))
    with pytest.raises(IncompleteRun, match="2 of 8") as caught:
        on_ray()
    message = str(caught.value)
    assert f"{deadly} (the worker died" in message and f"{broken} (AttributeError" in message
    assert "\n" not in message and sum("failed, try" in line for line in on_ray.lines) == 6
    folder = tmp_path / "run"
    assert load_run(folder).manifest["status"] == "incomplete" and len(load_run(folder).sequences) == 6
    monkeypatch.undo()
    measure_locally(setting, folder)  # either engine goes on
    assert tables(folder) == tables(finished) and load_run(folder).manifest["status"] == "complete"


def test_what_no_try_can_mend_stops_the_run_at_once(on_ray, monkeypatch):
    """A user's mistake; a worker that would measure something else, as with other packages; or nothing works."""
    with pytest.raises(InputError, match="budget"):
        on_ray("one", budget=4)
    assert not [line for line in on_ray.lines if "try" in line]
    with monkeypatch.context() as other, pytest.raises(InputError, match=r"would measure something else: versions\."):
        other.setattr(cluster, "versions", lambda: {"torch": "0.1"})
        on_ray("two")
    monkeypatch.setattr(cluster, "HOPELESS", 3)
    monkeypatch.setattr(cluster, "Worker", worker(broken="all"))
    with pytest.raises(RuntimeError, match=r"no sequence can be measured(.|\n)*AttributeError"):
        on_ray()


def test_ctrl_c_leaves_a_run_that_either_engine_continues(setting, nodes, tmp_path):
    run = tmp_path / "run"
    words = [*command(setting, run, per_category=6), "--engine", "ray", "--workers", "2"]  # and a cluster of its own
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=ONE)
    while process.poll() is None and not list(run.glob("parts/*.layers.parquet")):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130 and "the same command continues" in errors and "Traceback" not in errors
    partial = load_run(run)
    assert partial.manifest["status"] == "interrupted" and 0 < len(partial.sequences) < 12
    measure_locally(setting, run, per_category=6)
    assert tables(run) == tables(measure_locally(setting, tmp_path / "whole", per_category=6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "ray"], "pip install -r requirements-ray.txt"),
        (["--engine", "rey"], "Did you mean 'ray'"),
        (["--workers", "2"], "add --engine ray"),
        (["--engine", "ray", "--workers", "0"], "at least 1"),
        (["--engine", "ray", "--device", "cuda:1"], "one GPU"),
    ],
)
def test_mistakes_about_the_cluster_are_one_line(setting, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*command(setting, tmp_path / "run")[3:], *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error and not (tmp_path / "run").exists()


def test_a_cluster_that_is_not_there_or_too_small(setting, nodes, tmp_path):
    missing, small = "no Ray cluster to use at", "workers=99 does not fit: the cluster has"
    for address, part in (("127.0.0.1:1", missing), ("nonsense", missing), (nodes.address, small)):
        with refused(part):
            measured(setting, tmp_path / "run", options={"engine": "ray", "address": address, "workers": 99})
    assert not (tmp_path / "run").exists()
