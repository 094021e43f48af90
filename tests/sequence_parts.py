"""Shared by the tests of sequences: small rows, archives and tokenizers."""

import json
import zipfile

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from chunkkv_lib.sequences import DATASETS

LONGBENCH_SETS = [name for names in DATASETS["longbench"].values() for name in names]


SCORABLE = {"trec": {"all_classes": ["text", "a text"]}, "passage_retrieval_en": {"answers": ["Paragraph 7"]}}


def a_row(dataset="qasper", number=0, **changes):
    """A small row in LongBench's format."""
    row = {"input": "What is it?", "context": f"It is text {number}.", "answers": ["text", "a text"], "length": 6}
    row |= {"dataset": dataset, "language": "en", "all_classes": None, "_id": f"id{number}"}
    return row | SCORABLE.get(dataset, {}) | changes


def as_lines(rows, ensure_ascii=False):
    return "".join(json.dumps(row, ensure_ascii=ensure_ascii) + "\n" for row in rows).encode()


def archive(path, names=LONGBENCH_SETS, prefix="data/", **content):
    """A `data.zip` with two rows for each of `names`; other content by name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.writestr(f"{prefix}{name}.jsonl", content.get(name, as_lines([a_row(name, 0), a_row(name, 1)])))
    return path


TRAINING = "The answer is: Paragraph 19. Question: who? Answer: Paris\nNext line of code:\n        return self.name\n"


def a_tokenizer(kind, bos=True, eos=False):
    """A tiny tokenizer: "bytes" as in GPT-2 and Llama 3, or "metaspace" as in Llama 2 and Mistral."""
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=kind == "metaspace"))
    special = ["<s>", "</s>", "<unk>"]
    if kind == "bytes":
        core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        special, alphabet = [*special, *(f"<0x{i:02X}>" for i in range(256))], list("\u2581 0123456789")
    core.train_from_iterator(
        [TRAINING] * 3,
        trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=special, show_progress=False),
    )
    frame = f"{'<s> ' if bos else ''}$A{' </s>' if eos else ''}"
    core.post_processor = processors.TemplateProcessing(single=frame, special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", model_max_length=50)
