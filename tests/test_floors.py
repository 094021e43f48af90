"""The library stands on four floors: a module imports only from its own or from below."""

import ast
import re
from importlib.util import resolve_name
from pathlib import Path

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
    """Entries of the library that a file imports, inside functions too."""
    package, found = ".".join(path.relative_to(ROOT.parent).parts[:-1]), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith("chunkkv_lib.")} & set(FLOOR)


def test_every_module_imports_from_its_own_floor_or_below():
    own = {path: path.relative_to(ROOT).parts[0].removesuffix(".py") for path in ROOT.rglob("*.py")}
    found = {(own[path], name) for path in own if own[path] != "__init__" for name in imports(path)}
    assert len(found) > 20 and {(a, b) for a, b in found if FLOOR[b] > FLOOR[a]} == set()


def test_the_readme_lists_every_entry_in_the_order_of_the_floors():
    tree = (ROOT.parent / "README.md").read_text(encoding="utf-8").partition("## The tree is the map")[2]
    rows = [line.split("|")[2] for line in tree.splitlines() if line.startswith("| ")][1:]
    listed = [name for cell in rows for name in re.findall(r"`(\w+)(?:\.py|/)`", cell)]
    assert listed == [name for name in FLOOR if (ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file()]
