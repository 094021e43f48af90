"""The peer's environment: kvpress cannot use the transformers of this library, so it gets packages of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

from ..errors import InputError
from ..files import cache_dir, sha256

REQUIREMENTS = Path(__file__).with_name("kvpress_requirements.txt")


def peer_python(requirements: Path = REQUIREMENTS) -> Path:
    """The Python of the peer's environment, which is made now if there is none with these packages.

    requirements  file of exact versions; the environment's folder in the user's cache is named by its content
    raises InputError: it cannot be installed, for example without the package index.
    """
    version = ".".join(map(str, sys.version_info[:2]))
    folder = cache_dir() / "environments" / f"{requirements.stem}-{version}-{sha256(requirements)[:12]}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (folder / "complete").exists():
        print(f"Installing the peer's packages once, about 1.5 GB, into {folder} ...", file=sys.stderr, flush=True)
        try:
            venv.create(folder, clear=True, with_pip=True)
            command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements]
            subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise _not_installed(error) from error
        (folder / "complete").touch()
    return python


def _not_installed(error: Exception) -> InputError:
    lines = [line for line in str(getattr(error, "stderr", "") or error).splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("ERROR")] or lines or [type(error).__name__]
    return InputError(
        f"the peer's environment could not be installed: {said[-1].strip()[:200]}. "
        "Connect to the package index and try again, or leave out --peers."
    )
