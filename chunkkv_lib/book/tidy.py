"""`python -m chunkkv_lib.book.tidy [chapters/NN_name.ipynb ...]`: clean notebooks before they are committed."""

from __future__ import annotations

import sys
from pathlib import Path

from chunkkv_lib.book.notebooks import read_notebook, tidy, write_notebook
from chunkkv_lib.book.paths import project_root
from chunkkv_lib.errors import InputError


def tidy_file(path: Path) -> bool:
    """Tidy one notebook in place; True if that changed the file."""
    before = path.read_bytes() if path.is_file() else b""
    write_notebook(tidy(read_notebook(path), path.stem), path)
    return path.read_bytes() != before


def main(arguments: list[str]) -> int:
    paths = [Path(a) for a in arguments] or sorted((project_root() / "chapters").glob("*.ipynb"))
    try:
        for path in paths:
            print(f"{path}: {'tidied' if tidy_file(path) else 'clean'}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
