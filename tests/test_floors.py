"""The library stands on floors, importing it costs little, and it stays as small as it promises to be."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import chunkkv_lib

ROOT = Path(chunkkv_lib.__file__).parent
FLOORS = (
    "errors sequence attention attention_triton compressors metrics capture decoding measure",
    "files models sequences runs",
    "report",
    "book lab exercises bench __main__",
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}


def imports(path: Path) -> set[str]:
    """Top-level entries of the library that a file imports, inside functions too."""
    inside, found = path.relative_to(ROOT.parent).parts[:-1], set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = ".".join([*inside[: len(inside) - node.level + 1], *filter(None, [node.module])])
            names = [f"{base if node.level else node.module}.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("chunkkv_lib.")}
    return found & set(FLOOR)


def test_every_module_imports_from_its_own_floor_or_below():
    own = {path: path.relative_to(ROOT).parts[0].removesuffix(".py") for path in ROOT.rglob("*.py")}
    found = {(own[path], name) for path in own if own[path] != "__init__" for name in imports(path)}
    assert len(found) > 20 and {(a, b) for a, b in found if FLOOR[b] > FLOOR[a]} == set()


def test_the_readme_lists_every_entry_in_the_order_of_the_floors():
    tree = (ROOT.parent / "README.md").read_text(encoding="utf-8").partition("## The tree is the map")[2]
    rows = [line.split("|")[2] for line in tree.splitlines() if line.startswith("| ")][1:]
    listed = [name for cell in rows for name in re.findall(r"`(\w+)(?:\.py|/)`", cell)]
    assert listed == [name for name in FLOOR if (ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file()]


# --- what an import costs and does --------------------------------------------------------------------------------

HEAVY = {"transformers", "datasets", "matplotlib", "seaborn", "papermill", "sklearn", "torch", "pandas"}


def run(code: str, folder: Path) -> list:
    """The JSON that a fresh interpreter prints."""
    environment = {"PYTHONPATH": str(ROOT.parent), "HOME": str(folder), "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import chunkkv_lib", set()),
        ("from chunkkv_lib import ChunkKV, H2O, kv_l1_loss, attention_cosine_similarity", {"torch"}),
        ("from chunkkv_lib.book import provenance, project_root; project_root()", set()),
        ("import chunkkv_lib.__main__", set()),  # so that every --help answers at once
    ],
)
def test_an_import_loads_no_more_than_it_needs(statement, allowed, tmp_path):
    loaded = set(run(f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))", tmp_path))
    assert "chunkkv_lib" in loaded and HEAVY & loaded <= allowed


EFFECTS = """
import json, os, random, sys, threading
import torch, transformers
from transformers import AttentionInterface, AttentionMaskInterface
def state():
    return [
        torch.get_num_threads(), torch.is_grad_enabled(), str(torch.get_default_dtype()), torch.initial_seed(),
        torch.get_rng_state().tolist(), hash(random.getstate()), sorted(os.environ.items()), os.getcwd(),
        sorted(AttentionInterface().valid_keys()), sorted(AttentionMaskInterface().valid_keys()),
        transformers.logging.get_verbosity(), threading.active_count(),
    ]
before = state()
import chunkkv_lib
for name in chunkkv_lib.__all__:
    assert getattr(chunkkv_lib, name) is not None, name
print(json.dumps([state() == before, sorted(chunkkv_lib.__all__)]))
"""


def test_importing_everything_changes_nothing(tmp_path):
    """No file, no output, no registry, no thread, no global setting; and every exported name is there."""
    unchanged, names = run(EFFECTS, tmp_path)
    assert unchanged
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []
    assert names == sorted(names) and len(names) >= 25 and set(names) <= set(dir(chunkkv_lib))
    with pytest.raises(AttributeError, match="no attribute 'Chunk'"):
        chunkkv_lib.Chunk  # noqa: B018
