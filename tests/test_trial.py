"""A trial of one's own method: measured in memory beside the others, ready for figures and tables."""

from dataclasses import dataclass
from pathlib import Path

import papermill
import pytest
import torch
from common import refused

from chunkkv_lib import ChunkKV, Random, trial_run
from chunkkv_lib.compressors import Compressor
from chunkkv_lib.report.layers import figure_6, layer_means
from chunkkv_lib.report.records import paper_table_11
from chunkkv_lib.report.style import svg
from chunkkv_lib.report.table_11 import side_by_side, table_11


@dataclass(frozen=True)
class EveryOther(Compressor):
    """Keep positions at equal distances."""

    def choose(self, attention):
        n = attention.n
        return torch.linspace(0, n - 1, round(n * self.budget)).round().long().expand(len(attention.keys), -1)


@pytest.fixture(scope="module")
def run(embedded):
    methods = {"ChunkKV": ChunkKV(), "EveryOther": EveryOther(), "Random": Random()}
    return trial_run(methods, per_category=1, max_tokens=200, progress=False)


def test_an_own_method_is_measured_like_the_others_and_stands_beside_them(run):
    assert set(run.layers["method"]) == {"ChunkKV", "EveryOther", "Random"} and len(run.sequences) == 5
    assert (run.layers["kept_tokens"] == 20).all()
    assert run.records.groupby("method")["kv_l1_loss"].mean()["EveryOther"] == pytest.approx(0.9, abs=0.02)
    assert set(run.answer_records["method"]) == {"Full", "ChunkKV", "EveryOther", "Random"}
    assert (run.manifest["status"], run.manifest["parameters"]["budget"]) == ("complete", 0.1) and not run.path.exists()
    assert len(svg(figure_6(layer_means(run.records, methods=["ChunkKV", "EveryOther"])))) > 10_000
    assert "EveryOther" in table_11(side_by_side(paper_table_11(), run, ["ChunkKV", "EveryOther"]), run)
    with refused("'Full'"):  # which names the whole cache
        trial_run({"Full": ChunkKV()})


def test_the_template_for_a_method_runs_as_it_is(embedded, tmp_path):
    template = Path(__file__).resolve().parents[1] / "chapters" / "templates" / "my_method.ipynb"
    few = {"per_category": 1, "max_tokens": 160}
    done = papermill.execute_notebook(template, tmp_path / "mine.ipynb", few, progress_bar=False, cwd=tmp_path)
    shown = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(str(output.get("text", "")) + str(output.get("data", "")) for output in shown)
    assert "MyMethod keeps its promises" in text and "<th>MyMethod</th>" in text and "NLL of the answer" in text
    assert any("image/svg+xml" in output.get("data", {}) for output in shown)
