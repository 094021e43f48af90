"""Which tokens stay: classes of tricky pieces, counts against a naive reference, a survey that can be interrupted."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from common import refused
from synthetic_records import tiny_run
from tiny import tiny_longbench, tiny_model

from chunkkv_lib import token_claims, token_shares
from chunkkv_lib.figures.style import svg
from chunkkv_lib.figures.token_survey import shares_figure
from chunkkv_lib.measure import Parameters, token_survey
from chunkkv_lib.measure.token_survey import BLOCKS, COMPARED, RandomChunks, load_survey, only, survey
from chunkkv_lib.token_classes import CLASSES, PYTHON, function_words, sentences, token_classes, token_texts, units
from chunkkv_lib.token_counts import (
    DISTANCES,
    NEAR,
    PLACES,
    RUNS,
    columns,
    counts,
    distances,
    label,
    piece_counts,
    places,
    run_lengths,
    touched_and_whole,
)

TABLES = ("sequences.parquet", "tokens.parquet")


def classes(*texts, **options):
    return [list(CLASSES)[i] for i in token_classes(texts, **options)]


# --- classes, words, sentences ------------------------------------------------------------------------------------


def test_words_pieces_numbers_and_signs():
    texts = ("The", " quant", "isation", " of", " 20", "19", "th", " (", "see", " ", "\n\n", "!", "")
    assert classes(*texts) == [
        "function", "content", "piece", "function", "number", "number", "piece", "punctuation", "content", "space",
        "space", "punctuation", "other",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((" don", "'t"), ["function", "piece"]),  # looked up by what stands before the apostrophe
        ((" John", "'s"), ["content", "piece"]),
        ((" '", "hello"), ["punctuation", "content"]),  # an opening quotation mark is no apostrophe
        ((" the", "rapy"), ["content", "piece"]),  # begins like a function word, but is none
        ((" THE", " The"), ["function", "function"]),
        (("well", "-", "known"), ["content", "punctuation", "content"]),
        ((".append", "(x"), ["content", "content"]),  # pieces of other tokenizers begin with a sign
        ((" naïve", " Straße", " 中", "文"), ["content", "content", "content", "piece"]),
        (("\N{REPLACEMENT CHARACTER}", " \N{REPLACEMENT CHARACTER}"), ["other", "other"]),
        (("x", "1", " ²", "½"), ["content", "number", "number", "number"]),
        (("\t", " \n    ", "—", " …", "🙂"), ["space", "space", "punctuation", "punctuation", "punctuation"]),
        ((".\n", " _", "__"), ["punctuation", "punctuation", "punctuation"]),
    ],
)
def test_tricky_pieces(texts, expected):
    assert classes(*texts) == expected


def test_in_programs_keywords_are_the_function_words():
    texts = ("def", " the", "(", "self", ")", " None")
    expected = ["function", "content", "punctuation", "content", "punctuation", "function"]
    assert classes(*texts, function=PYTHON) == expected
    assert function_words("python_repo") is PYTHON is not function_words("hotpotqa_open")


def test_units_hold_together_what_has_no_gap():
    texts = (" quant", "isation", " 2", "0", "1", "9", ",", "5", " don", "'t", "\n", "x")
    assert units(texts) == [(0, 2), (2, 6), (7, 8), (8, 10), (11, 12)]


def test_sentences_end_where_white_space_follows_the_stop():
    texts = ("It", " costs", " 3", ".", "5", " dollars", ".", " Who", " pays", " for", " all", "?\"", "\n", "a", "\n")
    assert sentences(texts) == [(0, 7), (7, 12)]  # the line break alone and "a" are too short
    assert sentences(texts, least=1) == [(0, 7), (7, 12), (12, 13), (13, 15)]


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
def test_the_texts_of_the_tokens_make_up_the_text(kind):
    from sequence_parts import a_tokenizer

    tokenizer = a_tokenizer(kind, bos=False)
    text = "Answer: Paragraph 19 who?"
    texts = token_texts(tokenizer, tokenizer(text)["input_ids"])
    assert "".join(texts).strip() == text and len(classes(*texts)) == len(texts)


# --- counts -------------------------------------------------------------------------------------------------------

VOCABULARY = (" cat", "s", " the", " 1", "9", ".", "\n", " (", " mat", "")


def a_prompt(seed: int, n: int = 131, evidence=((40, 52), (90, 97))):
    g = np.random.default_rng(seed)
    texts = [VOCABULARY[i] for i in g.integers(len(VOCABULARY), size=n)]
    return texts, label(texts, {"the"}, evidence), g.random((2, n)) < 0.4


@pytest.mark.parametrize("seed", range(3))
def test_counts_against_a_naive_count(seed):
    texts, about, mask = a_prompt(seed)
    kinds, n = classes(*texts, function={"the"}), len(texts)
    expected = dict.fromkeys([c for group in ("class", "place", "near") for c in columns(group)], 0)
    for row in mask:
        for i in np.flatnonzero(row):
            expected[f"class_{kinds[i]}"] += 1
            place = 0 if i < 4 else 11 if i >= n - 8 else 1 + (i - 4) * 10 // (n - 12)
            expected[f"place_{place}"] += 1
            away = min(min(abs(i - t) for t in range(first, stop)) for first, stop in ((40, 52), (90, 97)))
            expected[f"near_{next((k for k, most in enumerate(NEAR) if away <= most), len(NEAR))}"] += 1
    assert counts(mask, about) == expected | {"tokens": int(mask.sum())}
    assert len(PLACES) == 12 and len(DISTANCES) == len(NEAR) + 1


@pytest.mark.parametrize("seed", range(3))
def test_pieces_against_a_naive_count(seed):
    _, about, mask = a_prompt(seed)
    lengths = [len(run) for row in mask for run in "".join("x" if kept else " " for kept in row).split()]
    assert sorted(run_lengths(mask)) == sorted(lengths)
    found = piece_counts(mask, about)
    assert found["runs"] == len(lengths) and sum(found[c] for c in columns("run")) == mask.sum()
    assert found["run_0"] == lengths.count(1) and found["run_2"] == sum(x for x in lengths if x in (3, 4))
    inside = [row[first:stop] for row in mask for first, stop in about.words]
    assert (found["words_touched"], found["words_whole"]) == (sum(map(any, inside)), sum(map(all, inside))) != (0, 0)
    assert len(about.words) and max(stop for _, stop in about.words) <= mask.shape[1] - 8


def test_runs_at_the_edges_of_rows_do_not_join():
    mask = np.array([[1, 1, 0, 1], [1, 0, 0, 1]], bool)
    assert run_lengths(mask).tolist() == [2, 1, 1, 1]
    assert run_lengths(np.ones((2, 3), bool)).tolist() == [3, 3] and len(run_lengths(np.zeros((2, 3), bool))) == 0
    names = dict(zip(columns("run"), RUNS))
    about = label([" a"] * 40, (), ())
    for length, name in ((1, "1"), (4, "3–4"), (9, "5–9"), (10, "10"), (19, "11–19"), (20, "≥ 20")):
        row = np.arange(40)[None] < length
        assert [names[c] for c in names if piece_counts(row, about)[c]] == [name]


def test_whole_and_touched_by_hand():
    mask = np.array([[1, 1, 0, 1, 1, 1]], bool)
    assert touched_and_whole(mask, [(0, 2), (1, 3), (2, 3), (3, 6)]) == (3, 2)
    assert touched_and_whole(mask, []) == (0, 0)


def test_distances_and_places_by_hand():
    assert distances(7, [(2, 4)]).tolist() == [2, 1, 0, 0, 1, 2, 3]
    assert distances(5, [(0, 1), (4, 5)]).tolist() == [0, 1, 2, 1, 0]
    assert np.bincount(places(112)).tolist() == [4, *[10] * 10, 8]
    with refused("21 tokens", "22"):
        places(21)


def test_without_evidence_nothing_is_near():
    _, about, mask = a_prompt(0, evidence=())
    assert not any(counts(mask, about)[c] for c in columns("near"))


# --- a survey on disk ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Parameters:
    folder = tmp_path_factory.mktemp("setting")
    return Parameters(
        model=str(tiny_model(folder / "model")), data_path=str(tiny_longbench(folder / "longbench")), device="cpu",
        source="longbench", categories=("Single-Document QA", "Multi-Document QA"), per_category=2, max_tokens=256,
        dtype="float32", budget=0.3, methods=(*COMPARED, "Random", "Oracle"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    return survey(tmp_path_factory.mktemp("runs") / "tokens", settings, progress=False, report=lambda line: None)


def test_every_set_of_every_layer_is_counted_once(settings, finished):
    found = load_survey(finished)
    sets = [*settings.methods, BLOCKS, *(only(a, b) for a, b in permutations(COMPARED, 2))]
    assert len(found.tokens) == 4 * 3 * len(sets) and set(found.tokens["method"]) == set(sets)
    assert not found.tokens.duplicated(["sequence", "layer", "method"]).any()
    assert found.manifest["status"] == "complete" and found.manifest["sequences"] == {"wanted": 4, "measured": 4}
    records = found.records.merge(found.sequences[["sequence", "prompt_tokens"]], on="sequence")
    kept = records[~records["method"].str.contains("not")]
    assert (kept["tokens"] == 2 * (0.3 * kept["prompt_tokens"]).round()).all()  # two KV heads, each the exact budget
    for group in ("class", "place"):
        assert (records[columns(group)].sum(axis=1) == records["tokens"]).all()
    assert (kept[columns("run")].sum(axis=1) == kept["tokens"]).all()


def test_what_one_drops_and_the_other_keeps_balances(finished):
    wide = load_survey(finished).tokens.pivot(index=["sequence", "layer"], columns="method", values="tokens")
    for a, b in permutations(COMPARED, 2):
        assert (wide[only(a, b)] == wide[only(b, a)]).all()  # equal budgets
        assert (wide[only(a, b)] <= wide[a]).all() and wide[only(a, b)].sum() > 0


def test_the_oracle_takes_the_most_attention_and_agrees_with_itself(finished):
    found = load_survey(finished).tokens
    wide = found.pivot(index=["sequence", "layer"], columns="method", values="attention")
    assert wide.to_numpy().max() <= 1 + 1e-6 and wide["Oracle"].mean() > wide["Random"].mean()
    oracle = found[found["method"] == "Oracle"]
    assert (oracle["oracle"] == oracle["tokens"]).all()


def test_random_chunks_are_whole_and_differ_between_layers(finished):
    found = load_survey(finished).tokens
    chunks = found[found["method"] == BLOCKS]
    alone = found[found["method"] == "Random"]
    assert (chunks["tokens"] / chunks["runs"]).min() > 5 > (alone["tokens"] / alone["runs"]).max()
    assert chunks.groupby("sequence")["class_content"].nunique().max() > 1


def test_random_chunks_draw_every_chunk_alike():
    import torch

    kept = np.zeros(50)
    x = torch.randn(1, 50, 4)
    for seed in range(400):  # ten tokens beside the window: one chunk, or the short last one and most of another
        kept[RandomChunks(budget=18, window=8, seed=seed).select(x, x)[0].numpy()] += 1
    assert kept[42:].tolist() == [400] * 8
    first = kept[[9, 19, 29, 39, 40]]  # only what is drawn first is kept to its end: a fifth of the draws each
    assert first.sum() == 400 and first.min() > 50 and first.max() < 110


@pytest.mark.parametrize("stop_after", [1, 3])
def test_an_interrupted_survey_continues_to_the_same_bytes(settings, finished, tmp_path, monkeypatch, stop_after):
    calls, whole = [], token_survey.survey_sequence

    def count_then_stop(*arguments):
        if len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append(1)
        return whole(*arguments)

    monkeypatch.setattr(token_survey, "survey_sequence", count_then_stop)
    with pytest.raises(KeyboardInterrupt):
        survey(tmp_path / "again", settings, progress=False)
    partial = load_survey(tmp_path / "again")
    assert len(partial.sequences) == stop_after and partial.manifest["status"] == "interrupted"
    calls.clear()
    monkeypatch.setattr(token_survey, "survey_sequence", lambda *arguments: (calls.append(1), whole(*arguments))[1])
    survey(tmp_path / "again", settings, progress=False)
    assert len(calls) == 4 - stop_after, "finished sequences are not counted again"
    for name in TABLES:
        assert (tmp_path / "again" / name).read_bytes() == (finished / name).read_bytes()


def test_a_complete_survey_is_left_alone_and_another_never_mixes(settings, finished):
    lines = []
    survey(finished, settings, report=lines.append)
    assert "complete" in lines[0] and len(lines) == 1
    with refused("budget=0.3, not 0.4", "--restart"):
        survey(finished, replace(settings, budget=0.4), progress=False)


def test_what_does_not_fit_is_refused(settings, tmp_path):
    with refused("Oracle", "add it"):
        survey(tmp_path / "x", replace(settings, methods=COMPARED))
    with refused("no survey", "python -m chunkkv_lib tokens"):
        load_survey(tmp_path / "nothing")
    with refused("4 sets", "kv_head"):
        survey(tmp_path / "y", replace(settings, granularity="query_head"), progress=False)


def test_texts_are_not_recorded(finished):
    found = load_survey(finished)
    assert found.tokens.select_dtypes(exclude="number").columns.tolist() == ["sequence", "method"]
    texts = found.sequences.select_dtypes(exclude="number").columns.tolist()
    assert texts == ["sequence", "category", "dataset", "text_hash"]


# --- shares -------------------------------------------------------------------------------------------------------


def by_hand(found, method, column, total):
    """Mean over sequences of kept by all, the plain way."""
    parts = []
    for row in found.sequences.itertuples():
        mine = found.tokens[(found.tokens["sequence"] == row.sequence) & (found.tokens["method"] == method)]
        whole = getattr(row, total) * mine["heads"].sum()
        parts.append(mine[column].sum() / whole if whole else np.nan)
    return np.nanmean(parts)


def test_shares_by_hand(finished):
    found = load_survey(finished)
    table = token_shares.means(token_shares.shares(found, "class")).set_index(["method", "value"])
    for method in COMPARED:
        expected = by_hand(found, method, "class_content", "class_content")
        assert table.loc[(method, "content"), "estimate"] == pytest.approx(expected)
    assert table.loc[("ChunkKV", "content"), "n"] == 4
    for value in CLASSES:
        assert table.loc[("ChunkKV", value), "n"] == (found.sequences[f"class_{value}"] > 0).sum()
    whole = token_shares.means(token_shares.whole_shares(found, "sentences")).set_index(["method", "value"])
    expected = by_hand(found, "SnapKV", "sentences_whole", "sentences")
    assert whole.loc[("SnapKV", "of all"), "estimate"] == pytest.approx(expected)


def test_runs_are_shares_of_what_is_kept(finished):
    found = load_survey(finished)
    table = token_shares.composition(found, "run", ("ChunkKV", BLOCKS))
    assert table.groupby(["sequence", "method"])["share"].sum().to_numpy() == pytest.approx(np.ones(8))
    length = token_shares.means(token_shares.mean_run(found, ("ChunkKV",)))["estimate"].item()
    mine = found.tokens[found.tokens["method"] == "ChunkKV"].groupby("sequence")[["tokens", "runs"]].sum()
    assert length == pytest.approx((mine["tokens"] / mine["runs"]).mean())


def test_a_composition_is_made_of_all_tokens_of_a_set(finished):
    found = load_survey(finished)
    name = only("ChunkKV", "SnapKV")
    table = token_shares.composition(found, "class", (name,))
    assert table.groupby("sequence")["share"].sum().to_numpy() == pytest.approx(np.ones(4))
    mine = found.tokens[found.tokens["method"] == name].groupby("sequence")[["class_content", "tokens"]].sum()
    expected = (mine["class_content"] / mine["tokens"]).to_numpy()
    assert sorted(table[table["value"] == "content"]["share"]) == pytest.approx(sorted(expected))


def test_gaps_are_paired_and_corrected(finished):
    table = token_shares.shares(load_survey(finished), "class")
    found = token_shares.gaps(table).set_index(["value", "baseline"])
    wide = table[table["value"] == "content"].pivot(index="sequence", columns="method", values="share")
    row = found.loc[("content", "SnapKV")]
    assert row["difference"] == pytest.approx((wide["ChunkKV"] - wide["SnapKV"]).mean()) and row["n"] == 4
    assert (found["p_holm"].dropna() >= found["p"].dropna() - 1e-12).all()
    few = found[found["n"] < 2]
    assert few["p"].isna().all() and few["difference"].isna().all() and found.drop(few.index)["p"].notna().all()
    assert token_shares.gap(table, "content", ("ChunkKV", "SnapKV")).estimate == pytest.approx(row["difference"])


def test_disagreement_of_a_known_record():
    """One layer, two KV heads, 104 tokens; ChunkKV alone keeps 10, of them 2 sinks, with a tenth of the attention."""
    zero = dict.fromkeys([*columns("place")[1:], "runs"], 0)
    sets = {"ChunkKV": (20, 4, 0.5), "ChunkKV, not SnapKV": (10, 2, 0.1), "SnapKV": (20, 4, 0.5),
            "SnapKV, not ChunkKV": (10, 0, 0.4)}  # fmt: skip
    tokens = pd.DataFrame([
        {"sequence": "a", "layer": 0, "method": name, "heads": 2, "tokens": count, "place_0": sinks, "oracle": 5,
         "attention": attention} | zero
        for name, (count, sinks, attention) in sets.items()
    ])  # fmt: skip

    class Known:
        sequences = pd.DataFrame({"sequence": ["a"], "prompt_tokens": [104]})
        records = tokens.assign(category="x", dataset="y")

    found = token_shares.disagreement(Known, [("ChunkKV", "SnapKV")]).set_index("method")
    assert found["part"].tolist() == [0.5, 0.5] and found["oracle"].tolist() == [0.5, 0.5]
    # 0.1 on 4 tokens a head of 100: 0.025 each, where an average one has 0.01
    assert found.loc["ChunkKV", "lift"] == pytest.approx(2.5)
    assert found.loc["SnapKV", "lift"] == pytest.approx(0.4 / 5 * 100)


def test_claims_have_the_sign_of_the_difference(finished):
    found = load_survey(finished)
    judged = [*token_claims.piece_claims(found), *token_claims.attention_claims(found)]
    assert len(judged) == 8 and {claim.number.n for claim in judged} <= {0, 2, 3, 4}
    assert sum(claim.number.n > 1 for claim in judged) >= 5
    for claim in judged:
        expected = "supported" if claim.number.low > 0 else "not supported" if claim.number.high < 0 else None
        assert claim.verdict == (expected or "cannot be told here")


def test_evidence_claims_look_at_marked_sequences_only():
    run = tiny_run(methods=("ChunkKV", "SnapKV", "H2O"))
    share = run.records["method"].map({"ChunkKV": 0.5, "SnapKV": 0.4, "H2O": 0.6}) + run.records.index % 7 / 1000
    marked = run.records["sequence"].str.startswith("Few")
    records = run.records.assign(evidence_kept=share.where(marked), evidence_whole=share.where(marked))
    found = {claim.statement: claim for claim in token_claims.evidence_claims(records)}
    assert found["More evidence tokens stay with ChunkKV than with SnapKV"].verdict == "supported"
    assert found["More evidence passages stay whole with ChunkKV than with H2O"].verdict == "not supported"
    assert {claim.number.n for claim in found.values()} == {6}


def test_unknown_groups_and_methods_are_named(finished):
    found = load_survey(finished)
    with refused("'clas'", "class"):
        token_shares.shares(found, "clas")
    with refused("'run'", "place"):
        token_shares.shares(found, "run")  # a prompt has no runs before something is evicted
    with refused("'Recent'", "ChunkKV"):
        token_shares.shares(found, "class", ("Recent",))
    with refused("'letters'", "words"):
        token_shares.whole_shares(found, "letters")


def test_the_figure_is_the_same_twice_and_names_its_methods(finished):
    table = token_shares.means(token_shares.shares(load_survey(finished), "place"))
    drawn, again = (
        svg(shares_figure({"Share that stays": table}, PLACES[1:-1], "Place in the prompt", "Subject", chance=0.3))
        for _ in range(2)
    )
    assert drawn == again and len(drawn) > 10_000
