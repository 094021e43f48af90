"""Where the book's repository is published, so that its buttons open the reader's own file and nobody else's."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path


def repository_address(root: Path) -> str | None:
    """`https://github.com/owner/name` of the repository at `root`, or None where it is not published on GitHub.

    From GitHub's own variable in its workflows, else from the remote `origin`; any password in that is left out.
    """
    if name := os.environ.get("GITHUB_REPOSITORY"):
        return f"https://github.com/{name}"
    found = re.search(r"github\.com[:/]([\w.-]+)/([\w.-]+?)(\.git)?/?$", _origin(root))
    return f"https://github.com/{found[1]}/{found[2]}" if found else None


def _origin(root: Path) -> str:
    command = ["git", "-C", str(root), "config", "--get", "remote.origin.url"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def with_buttons(config: dict, address: str | None) -> dict:
    """The book's configuration with repository, Binder and Colab buttons for `address`; unchanged without one."""
    if address is None:
        return config
    launch = {"binderhub_url": "https://mybinder.org", "colab_url": "https://colab.research.google.com",
              "notebook_interface": "jupyterlab"}  # fmt: skip
    buttons = {"use_repository_button": True, "use_issues_button": True, "use_edit_page_button": True}
    return {
        **config,
        "repository": {**config.get("repository", {}), "url": address},
        "launch_buttons": {**config.get("launch_buttons", {}), **launch},
        "html": {**config.get("html", {}), **buttons},
    }
