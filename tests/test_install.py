"""The library outside a clone: what a wheel holds and asks for, and what pip is told by a hardened set-up."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from chunkkv_lib.book.chapters import read_chapters, read_notebook
from chunkkv_lib.book.students import student_copies

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: What needs more than the package: building the site (a clone), kernels on a GPU, a cluster, another environment.
ELSEWHERE = ("book/build.py", "book/pdf.py", "book/site_extension.py", "attention_triton", "attention/triton_",
             "compressors/triton_", "runs/ray_")  # fmt: skip


def run(*command: object, cwd: Path, **options: object) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
    environment |= options.pop("env", {})
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("chunkkv_lib", "data/profiles", "data/paper"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, folder / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "dist", ".", cwd=folder)
    return next((folder / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """The Python of an environment that has the wheel; the packages it needs are those of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    packages = next(path for path in sys.path if (Path(path) / "torch").is_dir())
    (site / "shared.pth").write_text(packages)
    return folder / "venv" / "bin" / "python"


def test_the_wheel_holds_every_file_of_the_library_and_the_data_it_reads(wheel):
    there = set(zipfile.ZipFile(wheel).namelist())
    files = [path for path in (ROOT / "chunkkv_lib").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    wanted = {path.relative_to(ROOT).as_posix() for path in files}
    data = [*(ROOT / "data" / "profiles").glob("*.yml"), *(ROOT / "data" / "paper").glob("*.csv")]
    wanted |= {f"chunkkv_lib/{path.relative_to(ROOT).as_posix()}" for path in data}
    assert len(data) > 5 and wanted <= there and not [name for name in there if name.startswith("data/")]


@pytest.mark.slow
def test_it_measures_and_executes_student_copies_in_an_empty_folder(python, embedded, tmp_path):
    options = ["--categories", "Few-shot Learning", "--per-category", "2", "--max-tokens", "256", "--run", "two"]
    run(python, "-m", "chunkkv_lib", "measure", "--profile", "quick", *options, cwd=tmp_path)
    code = "import chunkkv_lib; print(chunkkv_lib.__file__, len(chunkkv_lib.load_run('two').sequences))"
    file, count = run(python, "-c", code, cwd=tmp_path).split()
    assert Path(file).is_relative_to(python.parents[1]) and count == "2"
    copies = {path.stem: path for path in student_copies(tmp_path / "students")}
    for chapter, *given in (["01_kv_cache"], ["02_three_rules"], ["05_two_yardsticks", "-p", "published", "two"]):
        command = (python, "-m", "papermill", copies[chapter], tmp_path / "out.ipynb", *given, "--no-progress-bar")
        run(*command, cwd=tmp_path, env={"IPYTHONDIR": str(tmp_path / "ipython")})


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[=<>;\[ ]", name)[0]).lower()


PINS = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
PINNED = {canonical(line) for line in PINS if line and not line.startswith("#")}
NEEDED = {canonical(name) for name in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["book"]}


def imports(source: str) -> set[str]:
    """Top-level names of the modules that a piece of code imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        found |= {name.partition(".")[0] for name in names}
    return found


def test_every_package_that_the_library_or_a_chapter_imports_is_asked_for_and_pinned():
    paths = (ROOT / "chunkkv_lib").rglob("*.py")
    library = [path for path in paths if not path.relative_to(ROOT / "chunkkv_lib").as_posix().startswith(ELSEWHERE)]
    texts = [path.read_text(encoding="utf-8") for path in library]
    for chapter in read_chapters(ROOT):
        if chapter.is_notebook:
            texts += [cell.source for cell in read_notebook(chapter.path).cells if cell.cell_type == "code"]
    needed = set().union(*map(imports, texts)) - set(sys.stdlib_module_names) - {"chunkkv_lib", "kvpress"}
    homes = packages_distributions()
    missing = {name for name in needed if not {canonical(home) for home in homes.get(name, [name])} & NEEDED}
    assert missing == set() and NEEDED <= PINNED


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_the_set_up_installs_into_its_environment_whatever_pip_is_told(wheel, tmp_path):
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    show = ["--eval", "show: ; @echo '$(PIP)'", "show", f"RUN={tmp_path / 'venv' / 'bin' / 'python'}"]
    pip = run("make", "-s", "-f", ROOT / "Makefile", *show, cwd=tmp_path).strip()
    hardened = {"PIP_USER": "1", "PIP_TARGET": str(tmp_path / "elsewhere"), "PIP_REQUIRE_HASHES": "1"}
    run("bash", "-c", f"{pip} install --no-deps --no-index {wheel}", cwd=tmp_path, env=hardened)
    assert list((tmp_path / "venv").glob("lib/python*/site-packages/chunkkv_lib/metrics.py"))
    assert not (tmp_path / "elsewhere").exists()
