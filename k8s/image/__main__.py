"""`python -m k8s.image` builds the image as an OCI archive; run it with the interpreter of the tested environment."""

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path

from k8s.image import debian, packages
from k8s.image.archive import Document, full_name, write_archive
from k8s.tools.values import default_image

# The extras of the Dockerfile's two targets. The gateway's has neither torch nor weights.
EXTRAS = {"all": "gateway,k8s,otel,fetch,worker,local", "gateway": "gateway,k8s,otel,fetch"}
MODELS = packages.REPOSITORY / "models"
KEPT = "caracal-checksums.json"
CONFIG: Document = {
    "User": f"{debian.USER}:{debian.USER}",
    "WorkingDir": "/app",
    "Env": ["PATH=/usr/local/bin:/usr/bin", "PYTHONPATH=/opt/caracal/site", "PYTHONUNBUFFERED=1", "HOME=/tmp"],
    "Cmd": ["python", "-m", "services.router"],
    "StopSignal": "SIGTERM",
}


def build(target: str, name: str, output: Path, work: Path, others: Mapping[str, Document] | None = None) -> str:
    """Builds one target into `output`. `work` keeps downloads, and installed packages while their lock is the same.
    `others`: images of the same files with another config, {name: config}.

    Returns the manifest's digest.
    """
    base, own, models = (_empty(work / target / folder) for folder in ("base", "own", "models"))
    debian.make_root(base, work / "debs")
    site = _dependencies(target, work)
    packages.install_caracal(own, work)
    left_out = [KEPT, "*.safetensors"] if target == "gateway" else [KEPT]  # it says nothing of copies
    shutil.copytree(MODELS, models / "app/models", ignore=shutil.ignore_patterns(*left_out))
    output.parent.mkdir(parents=True, exist_ok=True)
    return write_archive(output, name, CONFIG, [base, site, own, models], work / target / "blobs", others)


def _dependencies(target: str, work: Path) -> Path:
    """Returns the folder with the target's packages, from an earlier run if it would be the same."""
    site, done = work / target / "site", work / target / "site.key"
    torch = "worker" in EXTRAS[target].split(",")
    key = packages.dependencies_key(target, torch)
    if not (done.exists() and done.read_text() == key):
        done.unlink(missing_ok=True)
        packages.install_dependencies(_empty(site), target, work, torch=torch)
        done.write_text(key)
    return site


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", choices=EXTRAS, default="all", help="all roles, or the gateway without torch")
    parser.add_argument("--name", default=default_image(), help="the image's name (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=packages.REPOSITORY / "build/image/caracal.tar")
    parser.add_argument("--work", type=Path, default=packages.REPOSITORY / "build/image/work")
    given = parser.parse_args()
    shutil.rmtree(given.work / "wheel", ignore_errors=True)
    digest = build(given.target, given.name, given.output.resolve(), given.work.resolve())
    print(f"{given.output}: {full_name(given.name)} {digest}, {given.output.stat().st_size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
