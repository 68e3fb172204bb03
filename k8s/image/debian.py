"""Makes a root file system from Debian packages: Python and libraries for its wheels, no shell, no package manager."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

USER = 65532
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
PACKAGES = (
    "base-files",
    "ca-certificates",
    "netbase",
    "media-types",
    "libstdc++6",
    "libgomp1",
    f"{PYTHON}-minimal",
    f"lib{PYTHON}-stdlib",
)
# Dependencies of maintainer scripts, which never run here, and of documentation.
EXCLUDED = frozenset(
    {"debconf", "dpkg", "perl-base", "mawk", "tar", "install-info", "readline-common", "mailcap", "openssl"}
)
CERTIFICATES = "usr/share/ca-certificates"
# Where OpenSSL of Debian looks, and with it Python: the script that would write it never runs here.
AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"
UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/share/info")
_FOLDERS = ("app", "dev", "etc", "model", "proc", "sys", "tmp")
_PASSWD = f"root:x:0:0:root:/:/sbin/nologin\ncaracal:x:{USER}:{USER}:caracal:/tmp:/sbin/nologin\n"
_GROUP = f"root:x:0:\ncaracal:x:{USER}:\n"


class NoPackages(RuntimeError):
    """apt does not know a package; the message says what to do."""


def make_root(root: Path, downloads: Path) -> None:
    """Fills `root` with packages from this machine's apt mirrors. Raises NoPackages."""
    downloads.mkdir(parents=True, exist_ok=True)
    names = sorted(_closure(PACKAGES))
    # Without this, apt downloads as another user, who cannot write here.
    sandbox = ["-o", "APT::Sandbox::User=root"]
    subprocess.run(["apt-get", "-qq", *sandbox, "download", *names], cwd=downloads, check=True)
    for package in sorted(downloads.glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
    _write_authorities(root)
    for unused in UNUSED:
        shutil.rmtree(root / unused, ignore_errors=True)
    for folder in _FOLDERS:
        (root / folder).mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text(_PASSWD)
    (root / "etc/group").write_text(_GROUP)
    for alias in ("python", "python3"):
        (root / "usr/bin" / alias).symlink_to(PYTHON)


def _write_authorities(root: Path) -> None:
    """Writes the bundle of all authorities that Debian ships, as update-ca-certificates would."""
    authorities = sorted((root / CERTIFICATES).rglob("*.crt"))
    store = root / AUTHORITIES
    store.parent.mkdir(parents=True, exist_ok=True)
    store.write_text("".join(path.read_text().rstrip() + "\n" for path in authorities))
    (root / "usr/lib/ssl").mkdir(parents=True, exist_ok=True)
    for name, target in (("certs", "/etc/ssl/certs"), ("cert.pem", f"/{AUTHORITIES}")):
        link = root / "usr/lib/ssl" / name
        if not link.is_symlink():
            link.symlink_to(target)


def _closure(wanted: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    waiting = set(wanted)
    while waiting:
        found |= waiting
        waiting = set(_needed_by(sorted(waiting))) - found - EXCLUDED
    return found


def _needed_by(names: list[str]) -> Iterator[str]:
    """Yields direct dependencies: the first of alternatives (`a | b`); no virtual ones (`<awk>`), for scripts only."""
    done = subprocess.run(["apt-cache", "depends", *names], capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout:
        asked = ", ".join(names)
        raise NoPackages(
            f"apt does not know all of {asked}: run 'apt-get update', or build on a Debian that has {PYTHON}"
        )
    alternative = False
    for line in done.stdout.splitlines():
        kind, _, needed = line.strip().partition(": ")
        if kind.lstrip("|") in ("Depends", "PreDepends"):
            if not alternative and not needed.startswith("<"):
                yield needed
            alternative = kind.startswith("|")
