"""The library's modules stand on floors: one imports only from floors below its own; and importing costs little."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import chunkkv_lib

ROOT = Path(chunkkv_lib.__file__).parent
FLOORS = [
    {"errors", "files"},
    {"sequence", "attention", "downloads"},
    {"compressors", "kept_sets", "metrics"},
    {"models", "sequences"},
    {"capture", "decoding"},
    {"measure"},
    {"runs"},
    {"report"},
    {"bench"},
    {"book", "exercises"},
    {"__main__"},
]
#: What a module may import from its own floor.
BESIDE = {("kept_sets", "compressors"), ("metrics", "kept_sets"), ("decoding", "capture")}
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def edges(root: Path = ROOT) -> set[tuple[str, str]]:
    """(module, module that it imports) for all modules and packages of the library, imports inside functions too."""
    found = set()
    for path in root.rglob("*.py"):
        inside = path.relative_to(root.parent).with_suffix("").parts  # ("chunkkv_lib", "measure", "runs")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for target in imported(
                node, inside if path.name != "__init__.py" else inside[:-1], path.name == "__init__.py"
            ):
                if target[0] == root.name and len(target) > 1 and len(inside) > 1:
                    found.add((inside[1], target[1]))
    return {(a, b) for a, b in found if a != b and (root / b).with_suffix(".py").exists() | (root / b).is_dir()}


def imported(node: ast.AST, inside: tuple[str, ...], package: bool) -> list[tuple[str, ...]]:
    """Dotted paths that an import statement names, relative ones resolved."""
    if isinstance(node, ast.Import):
        return [tuple(alias.name.split(".")) for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    up = node.level - package
    base = inside[: len(inside) - up] if node.level else ()
    module = (*base, *(node.module or "").split(".")) if node.module else base
    return [(*module, alias.name) for alias in node.names]


def test_every_module_imports_from_lower_floors_only():
    modules = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert modules - {"__init__"} <= set(FLOOR), "a new module needs a floor in this file"
    found = edges()
    wrong = {(a, b) for a, b in found if FLOOR[b] >= FLOOR[a]} - BESIDE
    assert not wrong, f"modules that import from their own floor or above: {sorted(wrong)}"
    assert found >= BESIDE, "an exception that nothing needs any more"


def test_the_floors_have_really_been_read(tmp_path):
    """Imports of every form are seen: absolute, relative, of a module, of a name, inside a function."""
    root = tmp_path / "lib"
    (root / "high").mkdir(parents=True)
    for name in ("a", "b", "c", "d", "e"):
        (root / f"{name}.py").touch()
    (root / "__init__.py").write_text("from importlib import import_module\n")
    (root / "high" / "__init__.py").write_text("from ..a import x\nfrom .deep import y\n")
    (root / "high" / "deep.py").write_text(
        "import os, lib.b\nfrom lib.c import z\nfrom .. import d\ndef f():\n    from ..e.inner import w\n"
    )
    assert edges(root) == {("high", name) for name in "abcde"}
    assert len(edges()) > 20


# --- what an import costs and does --------------------------------------------------------------------------------

HEAVY = {"transformers", "datasets", "matplotlib", "seaborn", "papermill", "sklearn", "torch", "pandas"}


def run(code: str, folder: Path) -> dict:
    """The JSON that a fresh interpreter prints."""
    environment = {"PYTHONPATH": str(ROOT.parent), "HOME": str(folder), "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_importing_the_package_is_light(tmp_path):
    loaded = set(run("import json, sys, chunkkv_lib; print(json.dumps(sorted(sys.modules)))", tmp_path))
    assert "chunkkv_lib" in loaded and not HEAVY & loaded
    assert {name for name in loaded if name.startswith("chunkkv_lib")} == {"chunkkv_lib"}


def test_the_pure_functions_need_torch_only(tmp_path):
    names = "ChunkKV, SnapKV, H2O, METHODS, preset, kv_l1_loss, attention_cosine_similarity"
    code = f"import json, sys\nfrom chunkkv_lib import {names}\nprint(json.dumps(sorted(sys.modules)))"
    loaded = set(run(code, tmp_path))
    assert "torch" in loaded and not (HEAVY - {"torch"}) & loaded


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
    assert names == sorted(names) and len(names) >= 30


def test_exported_names():
    assert set(chunkkv_lib.__all__) <= set(dir(chunkkv_lib))
    with pytest.raises(AttributeError, match="no attribute 'Chunk'"):
        chunkkv_lib.Chunk  # noqa: B018
