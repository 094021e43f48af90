"""How large the library is, against the limits that it keeps: python tests/size.py, or make size."""

import ast
import json
import sys
from collections import Counter
from pathlib import Path

import prose

CORE = ["errors", "sequence", "attention", "compressors", "metrics", "capture", "decoding", "measure"]
LIMITS = {  # what -> (at commit 1f3accc, where the last number is of this script; at most)
    "lines of chunkkv_lib": (17_525, 12_500),
    "lines of its core, without the GPU kernels": (1_900, 1_800),
    "lines of tests": (11_519, 10_000),
    "top-level entries of chunkkv_lib": (33, 19),
    "functions and methods referenced once": (408, 204),
}


def lines(paths: list[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def referenced_once(root: Path) -> list[str]:
    """Functions and methods of the library that library and chapters mention once beyond definition and imports."""
    texts = [path.read_text(encoding="utf-8") for path in (root / "chunkkv_lib").rglob("*.py")]
    defined = {
        node.name
        for text in texts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("__")
    }
    for chapter in (root / "chapters").rglob("*.ipynb"):
        cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
        texts += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    used = Counter()
    for text in texts:
        for node in ast.walk(ast.parse(text)):
            used[node.id if isinstance(node, ast.Name) else getattr(node, "attr", None)] += 1
    return sorted(name for name in defined if used[name] == 1)


def measured(root: Path) -> dict[str, int]:
    """The numbers of the checkout at `root`, in the order of `LIMITS`."""
    library = root / "chunkkv_lib"
    core = [*(library / f"{name}.py" for name in CORE), *(p for name in CORE for p in (library / name).rglob("*.py"))]
    entries = [p for p in library.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()]
    numbers = (
        lines(list(library.rglob("*.py"))),
        lines([path for path in core if path.is_file() and "triton" not in path.name]),
        lines(list((root / "tests").rglob("*.py"))),
        len([path for path in entries if path.name != "__init__.py"]),
        len(referenced_once(root)),
    )
    return dict(zip(LIMITS, numbers, strict=True))


if __name__ == "__main__":
    root = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[1]
    for what, number in measured(root).items():
        before, most = LIMITS[what]
        print(f"{what:45} {number:7,}  at most {most:7,} (was {before:6,})  {'' if number <= most else 'MISSED'}")
    prose.main()
