"""A shell in a copy of the tree, with an empty home directory and the environment of this checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from support.documented_commands import REPO
from support.shell import BIN, Shell


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder, user = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("user")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPO, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    compiled = (path for top in ("kernels", "services") for path in (REPO / top).rglob("*.so"))
    built = [str(path.relative_to(REPO)) for path in compiled]
    for name in [*filter(None, listed.split("\0")), *built]:
        if (REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, folder / name)
    (folder / ".venv").symlink_to(BIN.parent)
    dropped = re.compile("CARACAL_|PYTHON|PYTEST_|XDG_|OMP_")
    kept = {name: value for name, value in os.environ.items() if not dropped.match(name)}
    # The checkout is installed in place: without the path, `caracal` would be that of the checkout, not of the copy.
    path = os.pathsep.join(str(folder / part) for part in ("", "kernels", "proto"))
    kept |= {"HOME": str(user), "TMPDIR": str(user), "COLUMNS": "160", "PYTHONPATH": path}
    yield Shell(folder, kept)
    shutil.rmtree(folder)
