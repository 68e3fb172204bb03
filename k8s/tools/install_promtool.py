"""`python -m k8s.tools.install_promtool` installs promtool into the virtual environment, to test the chart's alerts.

It comes from Debian's package `prometheus`, of which nothing else is taken and nothing is started.
"""

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "prometheus"
MEMBER = "./usr/bin/promtool"
TARGET = Path(sys.prefix) / "bin/promtool"


class PromtoolMissing(RuntimeError):
    """There is no promtool; the message says how to get one."""


def find_promtool() -> Path:
    """The promtool of this virtual environment, else the one on PATH. Raises PromtoolMissing."""
    on_path = TARGET if TARGET.exists() else shutil.which("promtool")
    if on_path is None:
        raise PromtoolMissing("no promtool: install Prometheus, or run `make .venv/.promtool` on a Debian")
    return Path(on_path)


def download(folder: Path) -> bytes:
    """Returns the binary, from this machine's apt mirrors. Raises PromtoolMissing."""
    if shutil.which("apt-get") is None:
        raise PromtoolMissing("no apt-get: install Prometheus, whose promtool is then taken from PATH")
    # Without this, apt downloads as another user, who cannot write here.
    apt = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", PACKAGE]
    done = subprocess.run(apt, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PromtoolMissing(f"apt does not have {PACKAGE}, run 'apt-get update': {done.stderr.strip()}")
    (package,) = folder.glob("*.deb")
    files = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        binary = archive.extractfile(MEMBER)
        assert binary is not None, "not a regular file"
        return binary.read()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            promtool = download(Path(folder))
        except PromtoolMissing as missing:
            raise SystemExit(str(missing)) from None
    part = TARGET.with_suffix(".part")
    part.write_bytes(promtool)
    part.chmod(0o755)
    part.replace(TARGET)


if __name__ == "__main__":
    main()
