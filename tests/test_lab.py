"""The lab: codes of a prompt, the rules and metrics on them, in Python and in the page's own scripts."""

import json
import random
import re
from itertools import product
from pathlib import Path

import axe
import numpy as np
import pytest
import torch
from tiny import WORDS, tiny_model

from chunkkv_lib import H2O, METHODS, ChunkKV, Oracle, PromptAttention, SnapKV, load_model
from chunkkv_lib.__main__ import main as command_line
from chunkkv_lib.capture import capture
from chunkkv_lib.errors import InputError
from chunkkv_lib.lab import lab_view
from chunkkv_lib.lab.codes import PROBES, SCORES, WINDOWS, layer_codes, packed
from chunkkv_lib.lab.data import open_prompts, probe_tokens, prompt_data, question_about
from chunkkv_lib.lab.page import LINKS, lab_page
from chunkkv_lib.lab.rules import Setting, keep, kept_tokens, random_numbers
from chunkkv_lib.metrics import attention_cosine_similarity, kv_l1_loss
from chunkkv_lib.sequences.encoding import encode_prompt, own_sequence, sentence_with, token_texts


def text(words: int, seed: int = 0) -> str:
    draw = random.Random(seed)
    sentences = [" ".join(draw.choice(WORDS) for _ in range(9)) for _ in range(words // 9)]
    sentences.insert(len(sentences) // 3, "the secret of the mat is 4071")
    return ". ".join(sentences) + "."


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return load_model(str(tiny_model(tmp_path_factory.mktemp("tiny"))), "cpu", "float32")


@pytest.fixture(scope="module")
def prompt(tiny):
    """A page's data and codes of a random model's prompt."""
    model, tokenizer = tiny
    sequence = question_about(tokenizer, text(240), "What is the secret of the mat?", "4071")
    return prompt_data(model, tokenizer, sequence)


@pytest.fixture(scope="module")
def tab(tab, prompt, tmp_path_factory):
    """A browser that has opened the lab's page from a file."""
    tab.page = tmp_path_factory.mktemp("lab") / "lab.html"
    tab.page.write_text(lab_page([prompt[0]], "A test"), encoding="utf-8")
    tab.screen(1300)
    reopened(tab)
    return tab


def reopened(tab, address: str = "") -> dict:
    """Open the lab's page, or another, and wait until it has drawn everything; its state."""
    tab.open("about:blank")
    tab.open(address or tab.page.as_uri())
    for _ in range(100):
        tab.listen(0.05)
        if state := tab.evaluate("document.querySelector('.lab').dataset.ready"):
            return json.loads(state)
    raise TimeoutError("the lab did not get ready")


def layer_tensors(heads=2, group=2, n=90, probes=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    queries = torch.randn(heads * group, n, 8, generator=g) * 2
    keys, values = torch.randn(heads, n, 8, generator=g), torch.randn(heads, n, 8, generator=g)
    return PromptAttention(queries, keys, probe_queries=torch.randn(heads * group, probes, 8, generator=g)), values


def test_codes_stand_for_the_votes_of_every_window():
    attention, values = layer_tensors()
    codes = layer_codes(attention, values)
    for at, window in enumerate(WINDOWS):
        votes = attention.window_rows(window).sum(1).unflatten(0, (2, 2)).mean(1).double().numpy()
        meant = SCORES[codes.votes[at]] / SCORES[-1] * votes.max()
        assert (codes.votes[at][votes == 0] == 0).all()
        assert np.abs(meant / votes - 1)[votes > votes.max() / 2**20].max() < 0.0008, "half a step is at most 0.08 %"
    mass = values.abs().sum(-1).numpy()
    assert np.abs(codes.values / 255 * mass.max() - mass).max() <= mass.max() / 509


def test_a_random_draw_is_its_own_for_every_seed_layer_and_head():
    drawn = [random_numbers(seed, layer, 3, 400) for seed in (0, 1) for layer in (0, 7)]
    rows = np.concatenate(drawn)
    assert len(np.unique(rows)) > 0.999 * rows.size
    assert np.abs(np.corrcoef(rows) - np.eye(len(rows))).max() < 0.2
    assert abs(rows.mean() / 2**32 - 0.5) < 0.02


def measured(codes, kept, marked) -> dict[str, float]:
    """Both metrics and the evidence kept, from one layer's codes and kept sets [S, b]."""
    mask = torch.zeros(len(kept), codes.columns.shape[1], dtype=torch.float64).scatter_(1, kept, 1)
    masses = (torch.from_numpy(mass[..., None].astype(float)) for mass in (codes.keys, codes.values))
    l1 = [kv_l1_loss(mass, kept).mean() for mass in masses]
    squares = torch.from_numpy(PROBES[codes.probes] ** 2)  # [H * G, P, n]
    stays = squares * mask.repeat_interleave(len(squares) // len(mask), 0)[:, None]
    cosine = (stays.sum(-1) / squares.sum(-1)).sqrt().mean()
    return {"l1": float(sum(l1) / 2), "cosine": float(cosine), "evidence": float(mask[:, marked].mean())}


@pytest.mark.parametrize("which", [0, 1])
def test_both_metrics_agree_with_the_library_on_a_real_prompt(embedded, which):
    """The page's numbers from codes against the library on unrounded tensors, choices included, in every layer."""
    model, tokenizer = embedded
    sequence = open_prompts(tokenizer)[which]
    n, answer = len(sequence.prompt_ids), list(sequence.answer_ids)
    rows = torch.tensor([n - 1 + i for i in probe_tokens(tokenizer, answer)])
    apart: dict[tuple, float] = {}

    def visit(layer):
        queries, keys, values = layer.queries[:, :n], layer.keys[:, :n], layer.values[:, :n]
        attention = PromptAttention(queries, keys, probe_queries=layer.queries[:, rows])
        codes = layer_codes(attention, values)
        for rule, budget in product((ChunkKV, SnapKV, H2O, Oracle), (5.0, 10.0, 20.0, 40.0)):
            setting = Setting(rule.__name__, budget)
            kept = rule(setting.tokens(n)).choose(attention)
            l1 = (kv_l1_loss(keys, kept).mean() + kv_l1_loss(values, kept).mean()) / 2
            cosine = attention_cosine_similarity(attention.probe_queries, keys, kept, rows).mean()
            ours = measured(codes, kept_tokens(codes, setting, layer.index), [])
            off = max(abs(ours["l1"] - float(l1)), abs(ours["cosine"] - float(cosine)))
            apart[setting.method, budget, layer.index] = off

    capture(model, torch.tensor([*sequence.prompt_ids, *answer]), visit)
    assert len(apart) == 16 * model.config.num_hidden_layers
    assert {where: found for where, found in apart.items() if found >= 0.003} == {}


FORMULAS = {
    "votes + 2 * columns": lambda v: v["votes"] + 2 * v["columns"],
    "-position * values": lambda v: -v["position"] * v["values"],
    "max(votes, columns) / (1 + keys)": lambda v: np.maximum(v["votes"], v["columns"]) / (1 + v["keys"]),
    "abs(position - 0.5) - votes * 3": lambda v: np.abs(v["position"] - 0.5) - v["votes"] * 3,
}


def settings(count: int) -> list[dict]:
    draw = random.Random(7)
    chosen = []
    for i in range(count):
        method = (*METHODS, "Own rule")[i % (len(METHODS) + 1)]
        chosen.append({
            "method": method, "budget": draw.randrange(2, 201) / 2, "share": draw.choice(["kv_head", "layer"]),
            "chunk": draw.randint(1, 50), "window": draw.choice(WINDOWS), "kernel": draw.randrange(1, 32, 2),
            "seed": draw.randrange(50), "formula": draw.choice(list(FORMULAS)),
            "unit": draw.choice(["tokens", "pooled"]),
        })  # fmt: skip
    return chosen


def library_choice(codes, s: dict, layer: int, n: int) -> torch.Tensor:
    setting = Setting(s["method"], s["budget"], s["share"], s["chunk"], s["window"], s["kernel"], s["seed"])
    if s["method"] != "Own rule":
        return kept_tokens(codes, setting, layer)
    tokens, window = setting.tokens(n), setting.fitting_window(n)
    parts = {
        "votes": SCORES[codes.votes[WINDOWS.index(window)]], "columns": SCORES[codes.columns],
        "keys": codes.keys.astype(float), "values": codes.values.astype(float),
    }  # fmt: skip
    scaled = {name: x * n / x.sum(1, keepdims=True) for name, x in parts.items()}
    scores = FORMULAS[s["formula"]](scaled | {"position": np.arange(n) / (n - 1)}) + np.zeros((len(codes.keys), n))
    scores = torch.from_numpy(scores.sum(0, keepdims=True) if s["share"] == "layer" else scores)
    kernel = s["kernel"] if s["unit"] == "pooled" else 1
    return keep(SnapKV(tokens, window=window, kernel=kernel), scores, n)


def test_the_page_keeps_what_the_library_keeps(tab, prompt):
    """500 random settings over all methods, each in one layer; then every number of the page on the same sets."""
    data, layers = prompt
    chosen = settings(500)
    found = tab.evaluate(
        f"""{json.dumps(chosen)}.map((s, i) => {{
          const p = Lab.page.prompts[0], layer = i % p.layers;
          if (s.method === "Own rule") s.rule = Lab.ownRule(s.formula);
          const sets = Lab.keep(p, layer, s);
          return [sets.map(mask => Array.from(mask.keys()).filter(i => mask[i])), Lab.measure(p, layer, sets)];
        }})""",
        seconds=120,
    )
    wrong = []
    for i, (s, (kept, numbers)) in enumerate(zip(chosen, found, strict=True)):
        ours = library_choice(layers[i % len(layers)], s, i % len(layers), data["n"])
        if kept != ours.tolist():
            wrong.append(s)
        else:
            assert numbers == pytest.approx(measured(layers[i % len(layers)], ours, data["marked"]), abs=1e-9)
    assert wrong == []


def shown(tab, side: str) -> list[int]:
    """Positions that the page marks as kept."""
    tokens = f"Lab.page.panels.find(p => p.side === '{side}').tokens"
    return tab.evaluate(f"{tokens}.flatMap((t, i) => t.className ? [i] : [])")


def number(tab, metric: str, column: int) -> float:
    row = f'.lab-numbers [data-metric="{metric}"][data-all=""]'
    return float(tab.evaluate(f"document.querySelectorAll('{row} td')[{column}].firstChild.textContent"))


def press(tab, key: str, code: int, times: int) -> None:
    for kind in ("keyDown", "keyUp") * times:
        tab.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)


def test_the_budget_moves_by_keyboard_and_text_and_numbers_follow(tab, prompt):
    data, layers = prompt
    layer = reopened(tab)["layer"]
    assert tab.requests() == [tab.page.as_uri()], "a page asks for nothing"
    before = shown(tab, "left")
    tab.evaluate("document.getElementById('lab-budget').focus()")
    press(tab, "ArrowRight", 39, times=20)
    tab.listen(0.5)
    state = json.loads(tab.evaluate("document.querySelector('.lab').dataset.ready"))
    assert state["budget"] == 20 and state["left"] != state["right"] and shown(tab, "left") != before
    for column, side in enumerate(("left", "right")):
        kept = kept_tokens(layers[layer], Setting(state[side], 20.0), layer)
        expected = measured(layers[layer], kept, data["marked"])
        assert shown(tab, side) == sorted(set(kept.ravel().tolist()))
        for metric in ("l1", "cosine"):
            assert number(tab, metric, column) == pytest.approx(expected[metric], abs=6e-4)
    assert tab.errors() == []


def test_all_rules_stand_in_a_table_that_follows_the_controls(tab, prompt):
    data, layers = prompt
    reopened(tab, f"{tab.page.as_uri()}?lab&budget=20")
    tab.evaluate("document.querySelector('.lab-all').open = true")
    tab.listen(0.5)
    rows = "[...document.querySelectorAll('.lab-all tbody tr')]"
    texts = tab.evaluate(f"{rows}.map(row => [...row.children].map(cell => cell.textContent))")
    found = {method: cells for method, *cells in texts}
    h2o = [measured(c, kept_tokens(c, Setting("H2O", 20.0), i), data["marked"])["l1"] for i, c in enumerate(layers)]
    assert list(found) == list(METHODS) and float(found["H2O"][0]) == pytest.approx(np.mean(h2o), abs=6e-4)
    assert found["H2O"][-1] == next(one[-1] for one in data["written"] if one[:2] == ["H2O", 20.0])


def test_a_page_opens_in_the_layer_where_one_side_is_furthest_ahead(tab, prompt):
    data, layers = prompt
    for address, sides in LINKS.items():
        left, right = (
            np.array([measured(c, kept_tokens(c, one, i), data["marked"])["evidence"] for i, c in enumerate(layers)])
            for one in sides
        )
        ahead = (left - right) * (np.sign((left - right).sum()) or 1)
        state = reopened(tab, f"{tab.page.as_uri()}?lab&{address}")
        assert state["layer"] == ahead.argmax() and state["budget"] == sides[0].budget


def test_a_weight_writes_the_formula_and_its_own_value(tab):
    tab.evaluate(
        "Lab.page.set({left: 'Own rule'}); const w = document.getElementById('lab-w-columns'); w.value = -0.5;"
        "w.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    assert tab.evaluate("document.getElementById('lab-formula').value") == "1 * votes - 0.5 * columns"
    told = "document.querySelector('output[for=lab-w-columns]').textContent"
    assert tab.evaluate(told) == "-0.5"
    assert tab.evaluate(f"Lab.page.open({{left: 'Own rule'}}); {told}") == "0"  # an address begins anew


def test_the_address_holds_the_setting_and_brings_it_back(tab):
    tab.evaluate("Lab.page.set({left: 'H2O', right: 'Oracle', budget: 33.5, layer: 2, window: 16})")
    tab.listen(0.5)
    wanted = {"left": "H2O", "right": "Oracle", "budget": 33.5, "layer": 2, "window": 16}
    address = tab.evaluate("location.href")
    assert "left=H2O" in address and reopened(tab, address).items() >= wanted.items()
    # as a query, which the theme's script does not stumble over
    state = reopened(tab, f"{tab.page.as_uri()}?lab&budget=20&chunk=5")
    assert (state["budget"], state["chunk"]) == (20, 5)


def test_an_address_cannot_bring_in_what_the_controls_do_not_offer(tab):
    spoilt = "#lab&left=<b>x</b>&budget=9999&layer=-4&window=7&formula=alert(1)&left2=x"
    state = reopened(tab, tab.page.as_uri() + spoilt)
    assert (state["left"], state["budget"], state["layer"], state["window"]) == ("ChunkKV", 100, 0, 8)
    assert tab.errors() == []


@pytest.mark.parametrize(
    ("formula", "meant"),
    [
        ("votes +", "ends too early"), ("", "is empty"), ("votes votes", "not expected"), ("(votes", "is missing"),
        ("alert(1)", "not known"), ("constructor", "not known"), ("votes; 1", "not expected"), ("log(1, 2)", "takes 1"),
        ("__proto__", "not known"), ("max(1)", "takes 2"), ("1 ? 2 : 3", "not expected"), ("votes[0]", "not expected"),
        ("2 + 3 * 4", 14), ("(2 + 3) * 4", 20), ("-2 ^ 2", -4), ("2 ^ 3 ^ 2", 512), ("7 - 2 - 1", 4), ("8 / 4 / 2", 1),
        ("2 ^ -1", 0.5), ("1e2 + .5", 100.5), ("min(3, max(1, 2))", 2), ("sqrt(abs(-9))", 3), ("2 * votes - -1", 7),
    ],
)  # fmt: skip
def test_a_formula_is_read_by_its_grammar_alone_and_means_what_it_says(tab, formula, meant):
    if isinstance(meant, str):
        tab.evaluate(f"Lab.page.set({{left: 'Own rule', formula: {json.dumps(formula)}}})")
        assert meant in tab.evaluate("document.querySelector('.lab-problem').textContent")
    else:
        assert tab.evaluate(f"Lab.compile({json.dumps(formula)}, ['votes'])({{votes: 3}})") == pytest.approx(meant)


def test_the_tour_and_the_search_set_the_controls(tab):
    tab.evaluate("Lab.page.set({left: 'ChunkKV', right: 'SnapKV', budget: 10})")
    states = set()
    for i in range(6):
        tab.evaluate(f"document.querySelectorAll('.lab-tour [data-text]')[{i}].click()")
        tab.listen(0.3)
        states.add(tab.evaluate("location.hash"))
        assert tab.evaluate("document.querySelector('.lab-stop').textContent")
    assert len(states) == tab.evaluate("document.querySelectorAll('.lab-tour [data-text]').length") == 6
    tab.evaluate("Lab.page.set({left: 'Oracle', right: 'Recent', budget: 10, layer: 0})")
    tab.evaluate("document.querySelector('.lab-find-left').click()")
    assert "Oracle keeps" in tab.evaluate("document.querySelector('.lab-stop').textContent")
    assert tab.errors() == []


def test_a_page_of_a_thousand_tokens_is_light_and_quick(tab, prompt, tmp_path):
    """Random attention of the shape of the embedded model. From a changed control to the changed text and numbers of
    all 30 layers: the mean of several steps.
    """
    layers = [layer_codes(*layer_tensors(heads=3, group=3, n=1000, seed=seed)) for seed in range(30)]
    data = prompt[0] | {
        "n": 1000, "layers": 30, "heads": 3, "group": 3, "windows": WINDOWS, "texts": [f" w{i}" for i in range(1000)],
        "marked": list(range(500, 520)), "weights": [int(x) for one in layers for x in one.weights.ravel()],
        "codes": packed(layers),
    }  # fmt: skip
    page = tmp_path / "lab.html"
    page.write_text(lab_page([data], "A test"), encoding="utf-8")
    assert page.stat().st_size < 2_000_000
    reopened(tab, page.as_uri())
    tab.call("Performance.enable", timeDomain="threadTicks")  # what else the machine does does not count

    def seconds() -> float:
        metrics = tab.call("Performance.getMetrics")["metrics"]
        return next(one["value"] for one in metrics if one["name"] == "TaskDuration")

    step = "Lab.page.set({ budget: 20 + i, chunk: 9 + i }); document.body.offsetHeight;"
    begun = seconds()
    tab.evaluate(f"for (let i = 0; i < 8; i++) {{ {step} }}")
    assert 0 < (seconds() - begun) / 8 < 0.1


@pytest.mark.parametrize("width", [1300, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_and_has_no_barriers_that_axe_knows(tab, width, dark):
    tab.screen(width, dark=dark)
    reopened(tab)
    tab.evaluate("Lab.page.set({left: 'Own rule'}); document.querySelectorAll('details').forEach(d => d.open = true)")
    right = "document.querySelector('{}').getBoundingClientRect().right"
    fits = tab.evaluate(f"document.documentElement.scrollWidth <= {width}")
    fits &= tab.evaluate(f"{right.format('#lab-formula')} < {right.format('.lab-own')}")
    found = axe.violations(tab)
    tab.screen(1300)
    assert fits and found == []


def test_the_sentence_that_holds_the_answer_is_found():
    prose = "Dr. Who came. The code is 12! Nothing else.\nEnd"
    assert sentence_with(prose, "12") == "The code is 12!"
    assert sentence_with(prose, "end") == "End"
    assert sentence_with(prose, "13") == ""


def test_a_reader_s_own_prompt_knows_its_answer_and_where_it_stands(tiny):
    tokenizer, prompt = tiny[1], f"{text(40)} the secret is 4071. {text(40)} what is the secret?"
    one = own_sequence(tokenizer, f" {prompt}\n", "4071")
    first, stop = one.evidence_spans[0]
    assert "4071" in tokenizer.decode(one.prompt_ids[first:stop]) and tokenizer.decode(one.answer_ids).strip() == "4071"
    given = own_sequence(tokenizer, prompt, "4071", evidence="secret is 4071")
    assert given.evidence == ("secret is 4071",) and given.prompt_ids == one.prompt_ids
    for wrong in ({"prompt": " "}, {"answer": ""}, {"evidence": "not there"}, {"prompt": "too short"}):
        with pytest.raises(InputError, match=r"empty|does not stand|at least 16"):
            own_sequence(tokenizer, **({"prompt": prompt, "answer": "4071"} | wrong))


def test_what_the_model_writes_from_a_whole_cache_is_what_it_writes(tiny):
    """Recorded answers come from the caches that the page shows: all tokens kept means the full cache's answer."""
    sequence = question_about(tiny[1], text(240), "What is the secret of the mat?", "4071")
    data, _ = prompt_data(*tiny, sequence, recorded=[Setting("H2O", 100.0), Setting("Recent", 3.0)])
    by_method = {one[0]: one[-1] for one in data["written"]}
    assert by_method["H2O"] == data["full"] != by_method["Recent"]


def test_control_tokens_written_in_a_text_are_shown_letter_by_letter(tiny):
    """As the model reads them; and a letter of several tokens is shown once, by the last of them."""
    tokenizer, written = tiny[1], "the cat 💡 wrote <eos> on"
    ids = encode_prompt(tokenizer, written, 100)
    texts = token_texts(tokenizer, ids, written)
    assert "".join(texts) == written and len(texts) == len(ids) and "<eos>" not in texts and "💡" in texts


def test_the_probes_are_the_first_words_of_the_answer(prompt):
    data, _ = prompt
    assert "".join(data["probes"]).strip() == "4071"[: len("".join(data["probes"]).strip())]
    outlined = "".join(data["texts"][i] for i in data["marked"])
    assert "4071" in outlined and len(data["marked"]) < 40


def test_a_page_for_a_text_of_ones_own_is_one_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = tiny_model(tmp_path / "model")
    Path("my.txt").write_text(f"\ufeff{text(120)} Ωmega café 猫.", encoding="utf-8")
    command = ["lab", "my.txt", "--question", "What is the secret?", "--answer", "4071", "--model", str(model)]
    assert command_line(command) == 0
    written, said = Path("my-lab.html"), capsys.readouterr()
    assert said.out.strip() == "my-lab.html" and "MB" in said.err
    page = written.read_text(encoding="utf-8")
    data = json.loads(re.search(r'class="lab-data">(.*?)</script>', page, flags=re.DOTALL)[1])
    assert "".join(data["prompts"][0]["texts"]).endswith("Ωmega café 猫.\n\nQuestion: What is the secret?\nAnswer:")
    assert "http" not in re.sub("http://www.w3.org/2000/svg", "", page)
    assert command_line(command) == 0, "a page of ours may be written again"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"text": "nothing.txt"}, "cannot be read"), ({"text": "bytes.txt"}, "is no UTF-8 text"),
        ({"--output": "mine.html"}, "is no page of the lab"), ({"--answer": " "}, "the answer is empty"),
        ({"--output": "."}, "is no page of the lab"), ({"text": "empty.txt"}, "the text is empty"),
        ({"text": "long.txt"}, "at most 4,000"),
    ],
)  # fmt: skip
def test_mistakes_cost_one_line_and_no_file(changed, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = tiny_model(tmp_path / "model")
    files = {"my.txt": b"a cat sat", "bytes.txt": b"\xff\xfe\x00", "empty.txt": b"\n", "mine.html": b"<p>my own</p>"}
    files["long.txt"] = text(9000).encode()
    for name, content in files.items():
        Path(name).write_bytes(content)
    capsys.readouterr()
    options = {"text": "my.txt", "--question": "who?", "--answer": "cat", "--model": str(model)} | changed
    name = options.pop("text")
    assert command_line(["lab", name, *(word for pair in options.items() for word in pair)]) == 2
    error = capsys.readouterr().err.strip().rpartition("\n")[2]
    assert told in error and error.startswith("error: ") and error.endswith(".")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == files


@pytest.mark.slow  # both prompts run through the embedded model
def test_the_books_page_has_two_prompts_their_source_and_links_that_show_what_they_say(embedded):
    """ChunkKV's cache gives the number and SnapKV's does not; with the other setting it is the other way round."""
    page = lab_view(*embedded).data
    assert len(page.encode()) < 3_400_000
    assert page.count('data-address="lab&amp;') == 2 and "CC BY-SA 4.0" in page and "Rajpurkar" in page
    number, question = json.loads(re.search(r'class="lab-data">(.*?)</script>', page, flags=re.DOTALL)[1])["prompts"]
    written = {(one[0], one[1], *one[3:6]): number["answer"] in one[-1] for one in number["written"]}
    assert number["answer"] in number["full"] and question["answer"] in question["full"]
    assert [written["ChunkKV", 10, 10, 8, 7], written["SnapKV", 10, 10, 8, 7]] == [True, False]
    assert [written["ChunkKV", 20, 5, 8, 7], written["SnapKV", 20, 10, 8, 7]] == [False, True]


def test_a_text_without_the_answer_has_no_numbers_of_evidence(tiny, tab, tmp_path):
    sequence = question_about(tiny[1], text(90), "What is the secret of the mat?", "lighthouse")
    page = tmp_path / "lab.html"
    page.write_text(lab_page([prompt_data(*tiny, sequence)[0]], "A test"), encoding="utf-8")
    reopened(tab, page.as_uri())
    rows = """[...document.querySelectorAll('.lab-numbers [data-metric="evidence"]')]"""
    assert tab.evaluate(f"{rows}.map(row => row.hidden)") == [True, True]
    tab.evaluate("document.querySelector('.lab-all').open = true")
    tab.listen(0.5)
    kept = "[...document.querySelectorAll('.lab-all tbody tr')].map(row => row.children[3].textContent)"
    assert tab.evaluate(kept) == ["–"] * len(METHODS)
    assert "passage" not in tab.evaluate("document.querySelector('.lab-told').textContent")
    tab.evaluate("document.querySelectorAll('.lab-tour button').forEach(button => button.click())")
    assert tab.errors() == []
