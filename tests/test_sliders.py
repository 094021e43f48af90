"""Figure 6 and Table 11 with sliders: the numbers are the records', and a real browser shows those that are chosen."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from browser import browser, find_browser
from common import refused

from chunkkv_lib.book.site_extension import add_scripts
from chunkkv_lib.report.records import sequence_means
from chunkkv_lib.report.sliders import sliders_view
from chunkkv_lib.report.sliders_data import ALL, measured_grid, payload, ticks, value_text
from chunkkv_lib.report.sliders_panel import marker_path
from chunkkv_lib.report.statistics import interval

ASSETS = Path(__file__).resolve().parents[1] / "chunkkv_lib" / "book" / "assets"
L1, COSINE = "kv_l1_loss", "attention_cosine_similarity"
CATEGORIES = ("Single-Document QA", "Few-shot Learning")
LAYERS, SEQUENCES = 12, 5
BUDGETS, CHUNKS = (0.05, 0.1, 0.5), (1, 10, 64)


def labels(name: str, values: tuple, own: object, varied: tuple[str, ...]) -> dict[str, dict[object, str]]:
    methods = ("ChunkKV", "Random", "SnapKV", "Recent")
    return {m: {v: f"{m}, {name} {v}" if m in varied and v != own else m for v in values} for m in methods}


AXES = {
    "budget": labels("budget", BUDGETS, 0.1, ("ChunkKV", "Random", "SnapKV")),
    "chunk_size": labels("chunk_size", CHUNKS, 10, ("ChunkKV",)),
}


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    """Two metrics of every label, sequence and layer: the loss is about 1 - budget."""
    g = np.random.default_rng(0)
    every = {label for axis in AXES.values() for by_value in axis.values() for label in by_value.values()}
    rows = []
    for label in sorted(every):
        kept = float(label.split("budget ")[1]) if "budget" in label else 0.1
        for category in CATEGORIES:
            for i in range(SEQUENCES):
                for layer in range(LAYERS):
                    loss, cosine = 1 - kept + g.normal(0, 0.01), 0.5 + kept / 2 + g.normal(0, 0.02)
                    rows.append((f"{category}-{i}", category, label, layer, loss, cosine))
    return pd.DataFrame(rows, columns=["sequence", "category", "method", "layer", L1, COSINE])


@pytest.fixture(scope="module")
def grid(records):
    return measured_grid(records, AXES)


# --- the numbers --------------------------------------------------------------------------------------------------


def test_methods_that_no_axis_varies_are_left_out_and_compared_ones_come_first(grid):
    assert grid.methods == ("ChunkKV", "SnapKV", "Random")
    assert grid.varied("budget") == list(grid.methods) and grid.varied("chunk_size") == ["ChunkKV"]
    assert grid.base == {"budget": 1, "chunk_size": 1}


def test_every_setting_is_measured_once_and_says_what_it_is(grid):
    assert len(grid.settings) == 3 * 3 + 2  # the run's own setting of ChunkKV stands on both axes
    assert grid.series["budget"]["ChunkKV"][1] == grid.series["chunk_size"]["ChunkKV"][1]
    assert grid.series["chunk_size"]["SnapKV"] == [grid.series["budget"]["SnapKV"][1]] * 3
    chunked = grid.settings[grid.series["chunk_size"]["ChunkKV"][2]]
    assert chunked == {"method": "ChunkKV", "budget": 0.1, "chunk_size": 64}
    half = grid.settings[grid.series["budget"]["Random"][2]]
    assert half == {"method": "Random", "budget": 0.5, "chunk_size": None}


def test_means_and_intervals_are_those_of_the_records(grid, records):
    assert grid.categories == (*CATEGORIES, ALL) and grid.counts.tolist() == [[5, 5], [5, 5], [10, 10]]
    for c, category in enumerate(grid.categories):
        group = records if category == ALL else records[records["category"] == category]
        for label, (method, axis, value) in {
            "ChunkKV, chunk_size 64": ("ChunkKV", "chunk_size", 2), "Random, budget 0.05": ("Random", "budget", 0),
        }.items():  # fmt: skip
            found = interval(sequence_means(group, COSINE)[label])
            setting = grid.series[axis][method][value]
            np.testing.assert_allclose(grid.means[c, 1, setting], [found.estimate, found.low, found.high])
            by_layer = group[group["method"] == label].groupby("layer")[COSINE].mean()
            np.testing.assert_allclose(grid.layers[c, 1, setting, :, 0], by_layer)


def test_compared_methods_have_bands_and_controls_have_none(grid):
    for setting, values in zip(grid.settings, np.moveaxis(grid.layers, 2, 0), strict=True):
        if setting["method"] == "Random":
            assert np.isnan(values[..., 1:]).all()
        else:
            assert (values[..., 1] < values[..., 0]).all() and (values[..., 0] < values[..., 2]).all()


def test_the_frame_holds_every_setting_once(grid):
    frame = grid.frame()
    assert (
        len(frame) == 3 * 2 * 11
        and not frame.duplicated(["category", "metric", "method", "budget", "chunk_size"]).any()
    )
    assert frame.loc[frame["method"] == "SnapKV", "chunk_size"].isna().all()


def test_an_axis_spans_all_that_is_measured_along_it(grid):
    for field in AXES:
        marks = ticks(grid, field, 0)
        used = sorted({i for places in grid.series[field].values() for i in places})
        values = grid.layers[:, 0, used]
        assert marks[0] <= np.nanmin(values) and np.nanmax(values) <= marks[-1]
    budget, chunk = (ticks(grid, field, 0) for field in AXES)
    assert chunk[-1] - chunk[0] < (budget[-1] - budget[0]) / 3  # fitted to the axis, else chunks would not show


def test_packed_layers_are_the_layers(grid):
    data = payload(grid)
    codes = np.frombuffer(base64.b64decode(data["curves"]), "<u2").reshape(3, 2, 11, LAYERS)
    edges = np.frombuffer(base64.b64decode(data["edges"]), "<u2").reshape(3, 2, data["bands"], LAYERS, 2)
    for m, about in enumerate(data["metrics"]):
        low, high = about["range"]
        np.testing.assert_allclose(low + codes[:, m] / 65534 * (high - low), grid.layers[:, m, :, :, 0], atol=2e-5)
        found = low + edges[:, m] / 65534 * (high - low)
        np.testing.assert_allclose(found, grid.layers[:, m, : data["bands"], :, 1:], atol=2e-5)


def test_one_sequence_has_no_interval_but_can_be_written(records):
    alone = measured_grid(records[records["sequence"] == "Few-shot Learning-0"], AXES)
    assert alone.categories == ("Few-shot Learning",) and np.isnan(alone.means[..., 1:]).all()
    assert payload(alone)["means"][0][0][0][1:] == [None, None]
    page = sliders_view(alone).data
    assert "n = 1 sequence<" in page and "NaN" not in page and "nan" not in page


def test_values_in_words():
    assert [value_text("budget", value) for value in (0.025, 512)] == ["2.5 %", "512 tokens"]
    assert [value_text("chunk_size", value) for value in (1, 10)] == ["1 token", "10 tokens"]


def test_records_and_axes_that_do_not_fit_are_refused(records):
    with refused("'SnapKV'"):
        measured_grid(records[records["method"] != "SnapKV"], AXES)
    without = {m: {v: label for v, label in by_value.items() if v != 0.1} for m, by_value in AXES["budget"].items()}
    with refused("[0.05, 0.5]"):
        measured_grid(records, {"budget": without})
    with refused("'Code'", CATEGORIES[0]):
        sliders_view(measured_grid(records, AXES), "Code")


# --- the page without a script ------------------------------------------------------------------------------------


def test_without_scripts_the_runs_own_setting_is_shown(grid):
    page = sliders_view(grid, CATEGORIES[1]).data
    assert "Budget 10 %, chunk size 10 tokens: the run's own setting." in page.replace("&#x27;", "'")
    assert f"{CATEGORIES[1]}, n = 5 sequences" in page and '<div class="sliders-controls" hidden>' in page
    rows = page.split('class="sliders-table" data-metric="1"')[1].split("</table>")[0].split("<tr>")[2:]
    shown = [re.findall(r"<td[^>]*><span>([^<]*)</span> <span>([^<]*)</span>", row) for row in rows]
    for c, row in enumerate(shown):
        for k, method in enumerate(grid.methods):
            estimate, low, high = grid.means[c, 1, grid.series["budget"][method][1]]
            assert row[k] == (f"{estimate:.4f}", f"[{low:.4f}, {high:.4f}]")
        best = max(row[:2])[0]  # higher is better; the control does not count
        assert f'class="best"><span>{best}<' in rows[c] and rows[c].count("best") == 1


def test_every_control_has_a_label_and_every_panel_a_text(grid):
    page = sliders_view(grid).data
    for name in ("sliders-budget", "sliders-chunk_size", "sliders-category", "sliders-fit"):
        assert f'<label for="{name}">' in page and f'id="{name}"' in page
    assert page.count('role="img" aria-label="') == 2 and page.count("<caption>") == 2
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) and page.count("y axis does not start at 0") == 2


def test_the_data_cannot_end_the_script_element(records):
    renamed = records.assign(category="</script><b>")
    page = sliders_view(measured_grid(renamed.drop_duplicates(["sequence", "method", "layer"]), AXES)).data
    data = json.loads(re.search(r'sliders-data">(.*?)</script>', page, flags=re.S)[1])
    assert data["categories"] == ["</script><b>"] and "<b>" not in page.replace(json.dumps(data), "")


def test_markers_point_the_way_matplotlibs_do():
    assert marker_path("^").startswith("M0.00 -3.50L")  # its tip; in SVG up is negative
    assert "C" in marker_path("o") and marker_path("x").count("M") == 2


def test_a_views_script_is_loaded_on_its_own_pages_only():
    for body, wanted in (('<p>text</p>', []), ('<div class="sliders" id="s">', ["sliders.js"]),
                         ('<div class="survival" id="s">', ["survival.js"])):  # fmt: skip
        loaded: list[str] = []
        app = SimpleNamespace(add_js_file=lambda name, loaded=loaded, **options: loaded.append(name))
        add_scripts(app, "page", "page.html", {"body": body}, None)
        assert loaded == wanted
        assert all((ASSETS / name).is_file() for name in loaded)


# --- the page in a browser ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tab():
    if find_browser() is None:
        pytest.skip("no Chromium here (Debian: apt install chromium)")
    with browser() as tab:
        yield tab


def open_page(tab, folder: Path, view, script: bool = True) -> None:
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f'<link rel="stylesheet" href="{(ASSETS / "book.css").as_uri()}">'
    loaded = f'<script src="{(ASSETS / "sliders.js").as_uri()}"></script>' if script else ""
    page = folder / "page.html"
    page.write_text(f'<!DOCTYPE html><html lang="en"><head><title>t</title>{head}{loaded}</head>'
                    f'<body><article class="bd-article">{view.data}</article></body></html>')  # fmt: skip
    tab.open(page.as_uri())


def text(tab, selector: str) -> str:
    return tab.evaluate(f"document.querySelector({selector!r}).textContent")


def slide(tab, name: str, value: int) -> None:
    tab.evaluate(
        f"(() => {{ const e = document.querySelector('#sliders-{name}'); e.value = {value}; "
        "for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {bubbles: true})); })()"
    )


def table(tab, metric: int = 0) -> list[list[str]]:
    """The estimates of a table: a row per category, a column per method."""
    return tab.evaluate(
        f"[...document.querySelector('.sliders-table[data-metric=\"{metric}\"]').tBodies[0].rows]"
        ".map(row => [...row.cells].slice(1).map(cell => cell.children[0].textContent))"
    )


def heights(tab, metric: int, method: int, part: str = "line") -> list[float]:
    drawn = tab.evaluate(
        f'document.querySelector(\'.sliders-plot[data-metric="{metric}"] [data-method="{method}"] .sliders-{part}\')'
        ".getAttribute('points')"
    )
    return [float(pair.split(",")[1]) for pair in drawn.split()]


def marks(tab, metric: int) -> list[float]:
    """The numbers on a panel's y axis."""
    return tab.evaluate(
        f"[...document.querySelectorAll('.sliders-plot[data-metric=\"{metric}\"] .sliders-marks text:not([class])')]"
        ".map(e => Number(e.textContent))"
    )


def expected(grid, field: str, value: int, metric: int = 0) -> list[list[str]]:
    return [[f"{x:.4f}" for x in row[grid.at(field, value), 0]] for row in grid.means[:, metric]]


def test_the_script_first_draws_what_stands_there_already(tab, tmp_path, grid):
    view, found = sliders_view(grid, CATEGORIES[1]), []
    for script in (False, True):
        open_page(tab, tmp_path, view, script)
        lines = [heights(tab, m, k, part) for m in (0, 1) for k in (0, 1, 2) for part in ("line", "band", "dots")]
        found.append((table(tab), table(tab, 1), text(tab, ".sliders-told"), text(tab, ".sliders-subject"), lines))
    assert found[0][:4] == found[1][:4]
    for before, after in zip(found[0][4], found[1][4], strict=True):
        np.testing.assert_allclose(before, after, atol=0.11)
    assert tab.evaluate("document.querySelector('.sliders').dataset.ready") == "true" and tab.errors() == []
    assert tab.evaluate("document.querySelector('.sliders-controls').hidden") is False


def test_sliders_move_lines_and_numbers(tab, tmp_path, grid):
    open_page(tab, tmp_path, sliders_view(grid))
    slide(tab, "budget", 2)
    assert table(tab) == expected(grid, "budget", 2) and table(tab, 1) == expected(grid, "budget", 2, 1)
    assert "Budget 50 %, chunk size 10 tokens. All methods depend on the budget." in text(tab, ".sliders-told")
    at_half = heights(tab, 0, 0)
    low, *_, high = ticks(grid, "budget", 0)
    curve = grid.layers[0, 0, grid.series["budget"]["ChunkKV"][2], :, 0]
    np.testing.assert_allclose(at_half, 212 - 180 * (curve - low) / (high - low), atol=0.11)
    slide(tab, "chunk_size", 2)
    assert table(tab) == expected(grid, "chunk_size", 2)
    told = text(tab, ".sliders-told")
    assert "Budget 10 %, chunk size 64 tokens. SnapKV, Random do not depend on the chunk size." in told
    assert "Back at the run's own budget" in told and "y axes now fit every chunk size" in told
    assert tab.evaluate("document.querySelector('#sliders-budget').value") == "1"
    assert text(tab, 'label[for="sliders-budget"] output') == "10 %"
    assert marks(tab, 0) == ticks(grid, "chunk_size", 0) and marks(tab, 1) == ticks(grid, "chunk_size", 1)
    assert tab.evaluate("document.querySelectorAll('td.still').length") == 2 * 3 * 2
    assert tab.errors() == []


def test_keys_move_a_slider_and_tell_its_value(tab, tmp_path, grid):
    open_page(tab, tmp_path, sliders_view(grid))
    tab.evaluate("document.querySelector('#sliders-budget').focus()")
    for kind in ("rawKeyDown", "keyUp"):
        tab.call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39)
    assert tab.evaluate("document.querySelector('#sliders-budget').getAttribute('aria-valuetext')") == "50 %"
    assert table(tab) == expected(grid, "budget", 2)


def test_another_category_moves_the_lines_only(tab, tmp_path, grid):
    open_page(tab, tmp_path, sliders_view(grid))
    before, numbers = heights(tab, 0, 0), table(tab)
    tab.evaluate("(() => { const e = document.querySelector('select'); e.value = 2; "
                 "e.dispatchEvent(new Event('change')); })()")  # fmt: skip
    assert heights(tab, 0, 0) != before and table(tab) == numbers
    assert text(tab, ".sliders-subject") == f"{ALL}, n = 10 sequences"
    slide(tab, "budget", 0)
    tab.evaluate("document.querySelector('[data-control=\"reset\"]').click()")
    assert heights(tab, 0, 0) == before and text(tab, ".sliders-subject").startswith(CATEGORIES[0])
    assert "run's own setting" in text(tab, ".sliders-told")


def test_the_y_axes_can_be_fitted_to_the_compared_methods(tab, tmp_path, grid):
    open_page(tab, tmp_path, sliders_view(grid))
    assert marks(tab, 0) == ticks(grid, "budget", 0)
    tab.evaluate("document.querySelector('[data-control=\"fit\"]').click()")
    values = grid.layers[0, 0, grid.at("budget", 1)[:2]]
    low, *_, high = found = marks(tab, 0)
    assert low <= values.min() and values.max() <= high and high - low < 3 * np.ptp(values)
    np.testing.assert_allclose(np.diff(found), found[1] - found[0])
    np.testing.assert_allclose(heights(tab, 0, 0), 212 - 180 * (values[0, :, 0] - low) / (high - low), atol=0.11)
    tab.evaluate("document.querySelector('[data-control=\"reset\"]').click()")
    assert marks(tab, 0) == ticks(grid, "budget", 0)


def test_keys_and_the_pointer_read_a_layer(tab, tmp_path, grid):
    open_page(tab, tmp_path, sliders_view(grid))
    plot = "document.querySelector('.sliders-plot[data-metric=\"1\"]')"
    for key in ("ArrowRight", "ArrowRight", "ArrowRight"):
        tab.evaluate(f"{plot}.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}'}}))")
    snap, random = (grid.layers[0, 1, grid.series["budget"][m][1], 2] for m in ("SnapKV", "Random"))
    said = text(tab, ".sliders-layer")
    assert said.startswith("Layer 2, Attention cosine similarity: ChunkKV 0.")
    assert f"SnapKV {snap[0]:.3f} [{snap[1]:.3f}, {snap[2]:.3f}]" in said and said.endswith(f"Random {random[0]:.3f}.")
    tab.evaluate(
        f"(() => {{ const box = {plot}.querySelector('svg').getBoundingClientRect(); {plot}.dispatchEvent("
        "new PointerEvent('pointermove', {clientX: box.left + box.width * 350 / 360, clientY: box.top})); })()"
    )
    assert text(tab, ".sliders-layer").startswith(f"Layer {LAYERS - 1}, ")
    assert tab.evaluate("document.querySelectorAll('.sliders-rule[visibility=visible]').length") == 2


def test_what_is_shown_can_be_downloaded(tab, tmp_path, grid):
    open_page(tab, tmp_path, sliders_view(grid))
    slide(tab, "chunk_size", 2)
    tab.evaluate(
        "(() => { window.saved = null; URL.createObjectURL = blob => { window.saved = blob; return '#'; }; "
        "HTMLAnchorElement.prototype.click = function () { window.name_ = this.download; }; "
        "document.querySelector('[data-control=\"download\"]').click(); })()"
    )
    assert tab.evaluate("window.name_") == "budget-0.1-chunk_size-64.csv"
    rows = list(csv.DictReader(io.StringIO(tab.evaluate("window.saved.text()"))))
    assert len(rows) == 2 * 3 * (LAYERS + 3)
    mine = [row for row in rows if row["method"] == "ChunkKV" and row["layer"] == "mean" and row["metric"] == L1]
    want = grid.means[:, 0, grid.series["chunk_size"]["ChunkKV"][2]]
    assert [row["estimate"] for row in mine] == [f"{x:.4f}" for x in want[:, 0]]
    assert {row["chunk_size"] for row in rows} == {"64", ""} and {row["budget"] for row in rows} == {"0.1"}


def test_it_fits_a_phone(tab, tmp_path, grid):
    tab.screen(390, 844)
    open_page(tab, tmp_path, sliders_view(grid))
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    size = tab.evaluate("(() => { const e = document.querySelector('.sliders-plot svg'); "
                        "return 12 * e.getBoundingClientRect().width / 360; })()")  # fmt: skip
    assert size > 11  # pixels of the panels' text
    tab.screen(1300)
