"""What the analysis of one sequence costs, in time and memory, against a plain prefill of the same tokens.

Measured are whole prompts of a model at several lengths; one decoder layer of Llama-3-8B's shape with random weights
and the paper's 7,950 tokens (on a GPU: all 32 layers), since neither time nor memory depends on what weights say; and
single pieces of one layer. Steps take turns in one process, so that a slow moment of the machine meets all of them;
peak memory is taken in a fresh process for each step. `report.costs.load_report` reads a record back.
"""

import contextlib
import gc
import json
import os
import random
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor
from torch.utils.benchmark import timer

from .errors import InputError, check_whole

ANSWER_TOKENS = 32
SHORTEST = 128  # tokens: shorter prompts have no room for an observation window in 10 %
WARM_UP = 256  # tokens of a step's untimed run on a CPU; a GPU compiles its kernels for the length that is measured
WINDOW = 8  # queries whose rows SnapKV and ChunkKV look at
MATRIX_LIMIT = 2**31  # bytes: the full attention matrix of one layer is timed only where it is smaller

#: The paper's setting: fields of transformers' LlamaConfig, and the tokens of its prompts.
LLAMA_3_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
}  # fmt: skip
PAPER_TOKENS = 7950
PAPER_ROUNDS = 1  # on a CPU, where one takes a minute or more; its memory is measured once, too

#: The peer needs another transformers than this library, so it gets packages of its own.
PEER = ("kvpress==0.5.5", "torch==2.13.0", "transformers==5.2.0", "numpy==2.4.6")

#: glibc keeps what a program frees for later, more or less of it from run to run; so a peak of resident memory wavered
#: between 0.8 and 1.3 times a prefill's. With one arena, and every large block mapped and given back by itself,
#: two runs agree within a few per cent, and with the sum of all tensors alive.
PINNED_MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
MEMORY_REPEATS = 2  # fresh processes for each peak, so that every record shows how well they agree

Step = Callable[[list[int]], float]  # prompt ids -> tokens per head that are in the cache afterwards


def bench(
    lengths: tuple[int, ...],
    rounds: int = 5,
    model: str = "smollm2-135m",
    dtype: str | None = None,
    device: str = "cpu",
    peers: bool = False,
    output: str | Path = "data/bench/latest.json",
) -> dict:
    """Measure, print tables, write JSON after every length. Returns what is written; the options are the command's.

    raises InputError: a length, model, dtype or device that is not there; a peer that cannot be installed; nothing
        could be measured.
    """
    from transformers import LlamaConfig

    from . import load_model
    from .files import write_text
    from .report.arithmetic import Architecture
    from .report.costs import load_report, print_report
    from .runs.identity import machine, versions

    check_whole(rounds=rounds)
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    loaded, tokenizer = load_model(model, device=device, dtype=dtype)
    config, device = loaded.config.get_text_config(), str(loaded.device)
    del loaded
    tokens = {length: prompt_tokens(length, config.max_position_embeddings) for length in lengths}
    libraries = {"chunkkv_lib": sys.executable} | ({"kvpress": str(peer_python())} if peers else {})

    common = {"model": model, "folder": tokenizer.name_or_path, "dtype": dtype, "device": device, "config": None}
    jobs = [
        common
        | random_text(tokens[length], config.vocab_size)
        | {"length": length, "rounds": rounds, "library": library}
        for length in tokens
        for library in libraries
    ]
    paper = paper_job(common, rounds)
    shapes = {model: asdict(Architecture.of(config))}
    shapes[paper["model"]] = asdict(Architecture.of(LlamaConfig(**paper["config"])))
    load_before = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    layer = {"model": model, "tokens": 2048} if device == "cpu" else {"model": paper["model"], "tokens": PAPER_TOKENS}
    layer["rounds"] = 3 * rounds
    pieces = {"library": "pieces", "prompt": [0] * layer["tokens"], "rounds": layer["rounds"], "step": None}
    timed = run_worker(sys.executable, common | pieces | shapes[layer["model"]])
    report = {
        "model": model, "dtype": dtype, "device": device, "rounds": rounds, "answer_tokens": ANSWER_TOKENS,
        "versions": versions(), "peers": list(PEER) if peers else [], "machine": machine(),
        "load_before": load_before, "finished": None, "failures": [], "shapes": shapes, "rows": [],
        "pieces": layer | {"seconds": timed["seconds"]},
    }  # fmt: skip
    for job in [*jobs, paper]:
        what = f"{job['model']}, {job['library']}, {len(job['prompt']):,} tokens"
        try:
            for row in measured(libraries[job["library"]], job):
                report["rows"].append(row)
                print(f"{what}: {row['step']}, {min(row['seconds']):.2f} s at best", file=sys.stderr, flush=True)
        except ChildProcessError as error:
            report["failures"].append({key: job[key] for key in ("model", "length", "library")} | {"why": str(error)})
            print(f"{what}: failed, {error}", file=sys.stderr, flush=True)
        report["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_text(output, json.dumps(report, indent=1) + "\n")
    if not report["rows"]:
        raise InputError(f"nothing could be measured: {report['failures'][0]['why']}.")
    print_report(load_report(output))
    print(f"written to {output}")
    return report


def prompt_tokens(length: int, positions: int) -> int:
    """Prompt tokens at a nominal length: as many, unless the answer would not fit the model's positions."""
    if not SHORTEST <= length <= positions:
        raise InputError(f"--lengths {length} does not fit; this model takes {SHORTEST} to {positions} tokens.")
    return min(length, positions - ANSWER_TOKENS)


def random_text(length: int, vocabulary: int) -> dict[str, list[int]]:
    """A prompt of `length` tokens and an answer; neither time nor memory depends on what they say."""
    ids = random.Random(0).choices(range(vocabulary), k=length + ANSWER_TOKENS)
    return {"prompt": ids[:length], "answer": ids[length:]}


def paper_job(common: dict, rounds: int) -> dict:
    """The paper's setting with random weights: on a CPU one layer, without the vocabulary that stands around it."""
    name, config = "Llama-3-8B", LLAMA_3_8B
    if common["device"] == "cpu":
        name, rounds = f"one layer of {name}", PAPER_ROUNDS
        config = config | {"num_hidden_layers": 1, "vocab_size": 1024}
    job = {"model": name, "config": config, "rounds": rounds, "library": "chunkkv_lib", "length": PAPER_TOKENS}
    return common | random_text(PAPER_TOKENS, config["vocab_size"]) | job


# --- processes ----------------------------------------------------------------------------------------------------


def measured(python: str, job: dict) -> Iterator[dict]:
    """The rows of one library at one length: one process for all times, more for the peak memory of each step."""
    timed = run_worker(python, job | {"step": None})
    repeats = min(1, MEMORY_REPEATS) if job["config"] else MEMORY_REPEATS
    for step, seconds in timed["seconds"].items():
        peaks = [run_worker(python, job | {"step": step})["bytes"] for _ in range(repeats)]
        yield {key: job[key] for key in ("model", "length", "library")} | {
            "tokens": len(job["prompt"]), "step": step, "seconds": seconds,
            "peak_bytes": [peak for peak in peaks if peak is not None], "kept_tokens": timed["kept_tokens"][step],
        }  # fmt: skip


def run_worker(python: str, job: dict) -> dict:
    """The JSON that a measuring process answers to a job. ChildProcessError if it fails, with its last line."""
    environment = dict(os.environ) | (PINNED_MALLOC if job["step"] else {})
    if python != sys.executable:
        environment.pop("PYTHONPATH", None)  # a peer must not find this environment's packages ...
    if Path(job["folder"]).is_dir():
        environment["HF_HUB_OFFLINE"] = "1"  # the model is here, nobody needs to ask the hub
    root = str(Path(__file__).resolve().parents[1])
    code = "import sys; sys.path.append(sys.argv[1]); from chunkkv_lib.bench import work; work()"  # ... before its own
    command = [python, "-P", "-c", code, root]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise ChildProcessError(f"{lines[-1][:200]} (exit status {done.returncode})")
    return json.loads(done.stdout)


def peer_python() -> Path:
    """The Python of the peer's environment, which is made on the first use. InputError: it cannot be installed."""
    from .files import cache_dir

    folder = cache_dir() / "environments" / "-".join([*PEER[0].split("=="), *map(str, sys.version_info[:2])])
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (folder / "complete").exists():
        print(f"Installing the peer's packages once, about 1.5 GB, into {folder} ...", file=sys.stderr, flush=True)
        try:
            venv.create(folder, clear=True, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "-q", *PEER], check=True)  # which says itself what fails
        except (OSError, subprocess.CalledProcessError) as error:
            raise InputError(
                f"kvpress could not be installed ({type(error).__name__}). Go online, or leave out --peers."
            ) from error
        (folder / "complete").touch()
    return python


# --- inside a measuring process -----------------------------------------------------------------------------------


def work() -> None:
    """Do the job on standard input and answer in JSON.

    Also runs in the peer's environment, so this file needs nothing but torch to be imported.
    """
    job = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):  # whatever libraries print must not get into the result
        result = kvpress_kept(job) if job["library"] == "guests" else measured_here(job)
    json.dump(result, sys.stdout)


def measured_here(job: dict) -> dict:
    """Seconds of all steps of a job, or the peak memory of one."""
    prompt, cuda = job["prompt"], job["device"] != "cpu"
    steps = {"chunkkv_lib": our_steps, "kvpress": kvpress_steps, "pieces": piece_steps}[job["library"]](job)
    wanted = {name: step for name, step in steps.items() if job["step"] in (None, name)}
    for step in wanted.values():
        step(prompt if cuda else prompt[:WARM_UP])  # touches the weights and starts the threads
    if job["step"]:
        return {"bytes": peak_memory(wanted[job["step"]], prompt, job["device"])}
    return in_rounds(wanted, prompt, job["rounds"], calls=10 if cuda and job["library"] == "pieces" else 1)


def in_rounds(steps: Mapping[str, Step], prompt: list[int], rounds: int, calls: int = 1) -> dict[str, dict]:
    """Seconds of every step in rounds of all steps one after the other, and the tokens that each leaves.

    calls  of a short step, timed together, so that a GPU does not wait for the CPU between them
    PyTorch's clock waits for a GPU; its `Timer.timeit` would run each step twice untimed before every measurement.
    """
    seconds, kept = {name: [] for name in steps}, {}
    for _ in range(rounds):
        for name, step in steps.items():
            started = timer()
            for _ in range(calls):
                kept[name] = step(prompt)
            seconds[name].append((timer() - started) / calls)
    return {"seconds": seconds, "kept_tokens": kept}


def peak_memory(step: Step, prompt: list[int], device: str = "cpu") -> int | None:
    """Bytes that a step needs at its peak above what was there before; on a CPU of this process (Linux), else None."""
    gc.collect()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step(prompt)
        return torch.cuda.max_memory_allocated(device) - before
    if not sys.platform.startswith("linux"):
        return None
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    step(prompt)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def our_steps(job: dict) -> dict[str, Step]:
    """The plain prefill that a serving system pays (SDPA, the full cache is kept), and complete analyses: they
    compress with every method, measure all metrics and decode the answer. H2O alone needs all rows of the attention.
    """
    from . import Sequence, analyse, load_model, preset

    if job["config"]:
        from transformers import AutoModelForCausalLM, LlamaConfig

        options = {"dtype": getattr(torch, job["dtype"]), "attn_implementation": "sdpa"}
        with torch.device(job["device"]):  # random weights, made on the device itself
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(LlamaConfig(**job["config"]), **options).eval()
    else:
        model, _ = load_model(job["model"], device=job["device"], dtype=job["dtype"])
    methods = preset()

    def prefill(prompt: list[int]) -> float:
        with torch.inference_mode():
            ids = torch.tensor([prompt], device=model.device)
            return model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values.get_seq_length()

    def analysis(*names: str) -> Step:
        chosen = {name: methods[name] for name in names}

        def step(prompt: list[int]) -> float:
            layers, _ = analyse(model, Sequence.from_ids(prompt, job["answer"], id="bench"), chosen)
            return float(layers["kept_tokens"].mean())

        return step

    steps = {"prefill": prefill, "all methods": analysis(*methods)}
    return steps if job["config"] else steps | {"SnapKV + ChunkKV": analysis("SnapKV", "ChunkKV")}


def piece_steps(job: dict) -> dict[str, Step]:
    """The pieces of one layer, on random tensors."""
    n, generator = len(job["prompt"]), torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(job[heads], n, job["head_dim"], generator=generator).to(job["device"], getattr(torch, job["dtype"]))
        for heads in ("query_heads", "kv_heads", "kv_heads")
    ]
    return {name: lambda _, run=run: float(len(run())) for name, run in layer_pieces(*tensors).items()}


@torch.inference_mode()
def layer_pieces(queries: Tensor, keys: Tensor, values: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The layer's own attention, and the ways to score the prompt's tokens by attention: name -> what is timed.

    queries [Hq, n, d]; keys, values [Hkv, n, d]
    """
    from .attention import attention_rows, column_sums, log_sum_exp

    n, every = keys.shape[1], torch.arange(keys.shape[1], device=keys.device)
    lse, attention = log_sum_exp(queries, keys), torch.nn.functional.scaled_dot_product_attention
    batch = queries[None], keys[None], values[None]
    pieces = {
        "the layer's own attention": lambda: attention(*batch, is_causal=True, enable_gqa=True)[0],
        f"rows of the window, {WINDOW} queries": lambda: attention_rows(queries[:, -WINDOW:], keys, every[-WINDOW:]),
        "column sums, log-sum-exp at hand": lambda: column_sums(queries, keys, lse),
        "column sums, log-sum-exp computed first": lambda: column_sums(queries, keys),
    }
    if 4 * len(queries) * n**2 < MATRIX_LIMIT:
        pieces["column sums of the full matrix"] = lambda: attention_rows(queries, keys, every).sum(1)
    return pieces


def kvpress_steps(job: dict) -> dict[str, Step]:
    """The peer's plain prefill, and a prefill with each of its presses."""
    prefill, presses = kvpress_model(job)

    def step(press=None, attention: str = "sdpa") -> Step:
        return lambda prompt: fmean(keys.shape[1] for keys in prefill(prompt, press, attention))

    return {"prefill": step()} | {name: step(*press) for name, press in presses.items()}


def kvpress_kept(job: dict) -> dict[str, list]:
    """press -> for every prompt and layer the positions that it keeps [Hkv, b], ascending."""
    prefill, presses = kvpress_model(job)
    kept = {name: [] for name in presses}
    for name, (press, attention) in presses.items():
        for prompt in job["prompts"]:
            pairs = zip(prefill(prompt, None, attention), prefill(prompt, press, attention), strict=True)
            kept[name].append([positions_of(left, full).tolist() for full, left in pairs])
    return kept


def kvpress_model(job: dict) -> tuple[Callable[..., list[Tensor]], dict[str, tuple]]:
    """A prefill with or without a press -> the keys that every layer's cache holds [Hkv, b, d]; and three presses at
    their defaults, by which 90 % of the cache go, each with the attention that it needs.
    """
    from kvpress import ChunkKVPress, ObservedAttentionPress, SnapKVPress
    from transformers import AutoModelForCausalLM

    options = {"dtype": getattr(torch, job["dtype"]), "attn_implementation": "sdpa"}
    model = AutoModelForCausalLM.from_pretrained(job["folder"], **options).to(job["device"]).eval()

    def prefill(prompt: list[int], press, attention: str) -> list[Tensor]:
        model.set_attn_implementation(attention)
        ids = torch.tensor([prompt], device=model.device)
        with torch.inference_mode(), press(model) if press else contextlib.nullcontext():
            cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
        return [layer.keys[0] for layer in cache.layers]

    return prefill, {
        "SnapKV": (SnapKVPress(0.9), "sdpa"), "ChunkKV": (ChunkKVPress(SnapKVPress(0.9)), "sdpa"),
        "ObservedAttention": (ObservedAttentionPress(0.9), "eager"),  # a relative of H2O
    }  # fmt: skip


def positions_of(left: Tensor, full: Tensor) -> Tensor:
    """Where the keys left [H, b, d] stand, bit for bit, among all of them [H, n, d]: int64 [H, b], ascending."""
    same = torch.stack([(some[:, None] == every).all(-1) for some, every in zip(left, full, strict=True)])  # [H, b, n]
    if not same.any(-1).all():
        raise ValueError("a kept key is not one of the full cache's")
    return same.int().argmax(-1).sort().values
