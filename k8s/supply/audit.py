"""`python -m k8s.supply.audit [--offline] [--image ARCHIVE]`: locks, bills of materials, known vulnerabilities.

Writes an SBOM (CycloneDX, JSON) of each lock to build/supply. Looks every locked package up among the advisories of the
Python index, and scans an image with trivy or grype. Exits 1 for a fault, for a vulnerability, and for what could not
be looked up.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from k8s.image.__main__ import EXTRAS
from k8s.supply.locks import faults, lock_of
from k8s.supply.tools import REPOSITORY, program

OUT = REPOSITORY / "build" / "supply"
SCANNERS = {
    "trivy": ("image", "--quiet", "--exit-code", "2", "--severity", "HIGH,CRITICAL", "--ignore-unfixed", "--input"),
    "grype": ("--quiet", "--fail-on", "high", "--only-fixed"),
}
FOUND = 2  # how both end when they have found something; they end with 1 when they could not scan


def write_sbom(target: str) -> Path:
    """Writes the bill of materials of a lock; returns its path."""
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{target}.cdx.json"
    subprocess.run(
        [
            *(program("cyclonedx-py"), "requirements", str(lock_of(target)), "--pyproject", "pyproject.toml"),
            *("--output-reproducible", "--of", "JSON", "-o", str(path)),
        ],
        cwd=REPOSITORY,
        check=True,
    )
    return path


def vulnerabilities(target: str) -> Iterator[str]:
    """Yields the known vulnerabilities of a lock's packages, and the packages that could not be looked up."""
    done = subprocess.run(
        [
            *(program("pip-audit"), "-r", str(lock_of(target)), "--require-hashes", "--disable-pip"),
            *("--format", "json", "--progress-spinner", "off"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if not done.stdout:
        yield f"{lock_of(target).name}: pip-audit ended with {done.returncode}"
        return
    for package in json.loads(done.stdout)["dependencies"]:
        name = f"{package['name']} {package.get('version', '')}".strip()
        if "skip_reason" in package:
            yield f"{lock_of(target).name}: {name}: not looked up"
        for one in package.get("vulns", []):
            fixed = ", ".join(one["fix_versions"]) or "no version"
            yield f"{lock_of(target).name}: {name}: {one['id']}, fixed in {fixed}"


def scan(image: Path) -> Iterator[str]:
    """Yields why an image is not clean. The scanner prints what it finds."""
    scanner = next((name for name in SCANNERS if shutil.which(name)), None)
    if not image.is_file():
        yield f"{image}: not scanned: there is no such file"
        return
    if scanner is None:
        yield f"{image}: not scanned: neither {' nor '.join(SCANNERS)} is installed"
        return
    code = subprocess.run([scanner, *SCANNERS[scanner], str(image)], check=False).returncode
    if code == FOUND:
        yield f"{image}: {scanner} found vulnerabilities"
    elif code:
        yield f"{image}: not scanned: {scanner} ended with {code}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m k8s.supply.audit", description=__doc__)
    parser.add_argument("--offline", action="store_true", help="locks and bills of materials alone")
    parser.add_argument("--image", type=Path, help="an OCI archive, as `make image` writes")
    given = parser.parse_args()
    found = [fault for target in EXTRAS for fault in faults(target)]
    for target in EXTRAS:
        print(f"{write_sbom(target).relative_to(REPOSITORY)}: bill of materials")
    if not given.offline:
        found += [fault for target in EXTRAS for fault in vulnerabilities(target)]
    if given.image is not None:
        found += scan(given.image)
    for fault in found:
        print(fault)
    print(f"{len(found)} faults")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
