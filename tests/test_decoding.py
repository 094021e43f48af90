"""Decoding from compressed caches against the plain model and transformers' own cache.

The last prompt token read once more, sets per query head, and methods of several granularities in one batch are held
to a masked float64 forward in test_analysis, step by step in test_generation.
"""

import copy

import pytest
import torch
from common import captured, each_architecture, refused, tiny_model, token_ids
from transformers import DynamicCache

from chunkkv_lib import Sequence, analyse, decoding
from chunkkv_lib.capture import capture
from chunkkv_lib.compressors import ChunkKV, Random, SnapKV
from chunkkv_lib.decoding import CompressedCache, answer_scores, check_decoding, decode, generate

pytestmark = pytest.mark.usefixtures("one_thread")


N, PROMPT, ANSWER = 30, token_ids(30), token_ids(6, seed=1)


def fill(model, choose, n: int = N, ids=PROMPT) -> tuple[CompressedCache, list[list[torch.Tensor]]]:
    """A cache of the first n tokens, and the kept sets per layer: choose(index, queries, keys) -> one per method."""
    cache, kept_sets = CompressedCache(n), []

    def visit(layer):
        kept_sets.append(choose(layer.index, layer.queries[:, :n], layer.keys[:, :n]))
        cache.add(layer.keys[:, :n], layer.values[:, :n], kept_sets[-1])

    capture(model, ids, visit)
    return cache, kept_sets


def everything(index, queries, keys) -> list[torch.Tensor]:
    return [torch.arange(keys.shape[1]).expand(len(keys), -1)]


def chosen(granularity: str, budget: float = 0.4):
    """Three methods, other sets in every layer."""

    def choose(index, queries, keys):
        methods = [
            Random(budget=budget, seed=index, granularity=granularity),
            ChunkKV(budget=budget, window=3, chunk_size=4, granularity=granularity),
            SnapKV(budget=budget, window=3, granularity=granularity),
        ]
        return [method.select(queries, keys) for method in methods]

    return choose


@each_architecture
@pytest.mark.parametrize("granularity", ["kv_head", "layer"])
def test_sets_per_kv_head_equal_a_dynamic_cache_at_once_and_step_by_step(architecture, granularity):
    """What transformers does with gathered keys and values and the true positions of the new tokens."""
    model = tiny_model(architecture)
    layers = captured(model, PROMPT)
    cache, kept_sets = fill(model, chosen(granularity))
    logits = decode(model, cache, ANSWER)
    for method in range(3):
        theirs = DynamicCache()
        for layer, sets in zip(layers, kept_sets):
            index = sets[method].expand(2, -1)[..., None].expand(-1, -1, 8)
            theirs.update(layer.keys.gather(1, index)[None], layer.values.gather(1, index)[None], layer.index)
        places = torch.arange(N, N + 6)[None]
        with torch.inference_mode():
            expected = model(input_ids=ANSWER[None], past_key_values=theirs, position_ids=places).logits[0]
        torch.testing.assert_close(logits[method], expected, rtol=0, atol=1e-4)
    assert (logits[0] - logits[1]).abs().max() > 0.1  # the methods do differ

    assert torch.equal(decode(model, cache, ANSWER), logits)  # without append the cache stays as it is
    # A product of two rows need not have the bits of a product of six: which ones depends on the processor.
    torch.testing.assert_close(decode(model, cache, ANSWER, logits_to_keep=2), logits[:, -2:], rtol=0, atol=1e-5)
    assert cache.next_position == N and cache.layers[0][0].shape[2] == 12
    steps = torch.cat([decode(model, cache, part, append=True) for part in ANSWER.split([1, 3, 2])], 1)
    torch.testing.assert_close(steps, logits, rtol=0, atol=1e-4)
    assert cache.next_position == N + 6
    assert [keys.shape[2] for keys, _ in cache.layers] == [values.shape[2] for _, values in cache.layers] == [18] * 3


def test_generation_is_greedy_and_rows_end_before_their_stop_token():
    model = tiny_model()
    cache, _ = fill(model, chosen("kv_head"))
    first = int(capture(model, PROMPT, lambda layer: None)[0].argmax())  # the most likely token after the prompt
    greedy = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(PROMPT[None], attention_mask=torch.ones(1, N), **greedy)[0, N:].tolist()
    assert generate(model, fill(model, everything)[0], first, max_new_tokens=8) == [expected] and len({*expected}) > 2
    free = generate(model, copy.deepcopy(cache), first, max_new_tokens=8)
    stop = free[0][3]
    stopped = generate(model, copy.deepcopy(cache), first, max_new_tokens=8, stop_ids=[stop, 96000])
    assert stopped == [row[: row.index(stop)] if stop in row else row for row in free]
    assert stopped[0] != free[0] and len(stopped[0]) <= 3
    assert generate(model, copy.deepcopy(cache), first, stop_ids={first}) == [[], [], []]
    assert generate(model, copy.deepcopy(cache), first, max_new_tokens=1) == [[first]] * 3


def test_answer_scores_are_computed_in_float32_and_leave_their_inputs_alone():
    """What they are is held to references in test_analysis."""
    ours, full = (5 * torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0))).half()
    answer, before = torch.tensor([0, 4, 8]), (ours.clone(), full.clone())
    exact = answer_scores(ours.double()[None], full.double(), answer)
    for name, value in answer_scores(ours[None], full, answer).items():
        assert value.item() == pytest.approx(exact[name].item(), abs=1e-5), name
    assert ours.equal(before[0]) and full.equal(before[1])
    for likeliest, accuracy in ((ours.argmax(-1), 1), ((ours.argmax(-1) + torch.tensor([0, 0, 1])) % 9, 0)):
        assert answer_scores(ours[None], full, likeliest)["accuracy"] == accuracy  # of the whole answer


@pytest.mark.parametrize(("architecture", "most"), [("Llama", 128), ("Mistral", 100)])
def test_a_continuation_beyond_the_models_positions_or_window_is_refused(architecture, most):
    """The prompt fits, the continuation does not."""
    model, n = tiny_model(architecture), most - 6
    cache, _ = fill(model, everything, n, token_ids(n))
    assert decode(model, cache, ANSWER).shape == (1, 6, 97)
    with refused(f"{most + 1}", f"{most}"):
        decode(model, cache, token_ids(7))
    for count, part in ((8, f"{most}"), (0, "at least 1"), (-1, "at least 1")):
        with refused(f"max_new_tokens={count}", part):
            generate(model, cache, 5, max_new_tokens=count)


def altered(monkeypatch, change=lambda x: x) -> torch.nn.Module:
    """A model of its own whose MLP of layer 1 is followed by `change`."""
    model = copy.deepcopy(tiny_model())
    model._chunkkv_decodes = False  # another test may have had it checked
    forward = model.model.layers[1].mlp.forward
    monkeypatch.setattr(model.model.layers[1].mlp, "forward", lambda x: change(forward(x)))
    return model


def test_a_model_that_decodes_as_it_predicts_is_checked_once(monkeypatch):
    model = altered(monkeypatch)
    check_decoding(model, PROMPT)
    monkeypatch.setattr(decoding, "decode", lambda *_: pytest.fail("checked again"))
    check_decoding(model, PROMPT)
    with refused("training mode", "model.eval()"):
        check_decoding(model.train(), PROMPT)


@pytest.mark.parametrize(("count", "dtype"), [(2, torch.float32), (3, torch.bfloat16), (200, torch.float16)])
def test_short_and_long_sequences_and_rounding_pass_the_check(count, dtype):
    check_decoding(copy.deepcopy(tiny_model(max_position_embeddings=256)).to(dtype), token_ids(count))


def test_a_model_that_counts_positions_by_itself_is_refused(monkeypatch):
    """As Llama 4 and BART do: what follows a token depends on how many stand in this pass."""
    model = altered(monkeypatch, lambda x: x + torch.arange(x.shape[1])[None, :, None] * 0.1)
    with refused("llama predicts something else decoded from an uncompressed cache", "0.001 is rounding"):
        analyse(model, Sequence.from_ids(PROMPT, ANSWER), {"SnapKV": SnapKV(budget=0.5)})
    layers, _ = analyse(model, Sequence.from_ids(PROMPT, ANSWER), {"SnapKV": SnapKV(budget=0.5)}, check=False)
    assert len(layers) == 3


def test_a_model_that_cannot_be_read_is_refused_in_one_line(monkeypatch):
    model = altered(monkeypatch, lambda x: x.reshape(0, 3))
    with refused("llama cannot be measured: reading its attention fails (shape '[0, 3]' is invalid"):
        check_decoding(model, PROMPT)
