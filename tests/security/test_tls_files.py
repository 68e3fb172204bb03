"""The files of TLS: what is wrong is said in one line that names the file, and what changes is read again."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from support.certificates import CLUSTER, Certificates
from support.cluster_harness import until
from support.tiny_checkpoint import make_checkpoint

from services.attention_worker.settings import AttentionSettings
from services.expert_worker.settings import ExpertSettings
from services.process.settings import InvalidSetting, ServiceSettings
from services.router.settings import RouterSettings
from services.security.identity import ATTENTION, EXPERT, ROUTER, roles_of, uri
from services.security.tls import LOOK_S, Tls, TlsFiles

EXPIRED = datetime.timedelta(days=-1)


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "tls")


def expert_settings(files: TlsFiles, **more: str) -> ExpertSettings:
    given: dict[str, Any] = {"tls_cert": str(files.cert), "tls_key": str(files.key), "tls_ca": str(files.ca)}
    return ExpertSettings(model=Path("."), **(given | more))


def test_good_files_are_taken_by_their_role_alone(made: Certificates) -> None:
    settings = expert_settings(made.issue(EXPERT))
    assert settings.open_tls().given
    assert not ExpertSettings(model=Path(".")).open_tls().given
    kinds: dict[str, type[ServiceSettings]] = {
        ROUTER: RouterSettings,
        ATTENTION: AttentionSettings,
        EXPERT: ExpertSettings,
    }
    assert {role: settings.role for role, settings in kinds.items()} == {role: role for role in kinds}
    with pytest.raises(InvalidSetting, match=r"CARACAL_TLS_CERT is .*expert.crt: it is not for the name spiffe://"):
        expert_settings(made.issue(ATTENTION, name="expert"))
    with pytest.raises(InvalidSetting, match="which the role expert of cluster caracal has"):
        expert_settings(made.issue(EXPERT, cluster="other"))
    with pytest.raises(InvalidSetting, match="CARACAL_CLUSTER is Not/A/Label: with TLS"):
        expert_settings(made.issue(EXPERT), cluster="Not/A/Label")


@pytest.mark.parametrize("missing", ["tls_cert", "tls_key", "tls_ca"])
def test_all_three_files_are_needed(made: Certificates, missing: str) -> None:
    with pytest.raises(InvalidSetting, match=f"CARACAL_{missing.upper()} is not set"):
        expert_settings(made.issue(EXPERT), **{missing: ""})


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


SPOILT: dict[str, Callable[[Path], object]] = {
    "is gone": lambda file: file.unlink(),
    "is empty": lambda file: file.write_bytes(b""),
    "is text": lambda file: file.write_text("no PEM: äöü"),
    "is cut short": lambda file: file.write_bytes(file.read_bytes()[:100]),
    "has other bytes": lambda file: file.write_bytes(b"\xff\x00" * 50),
    "is too long": lambda file: file.write_bytes(file.read_bytes() * 5000),
    "is a folder": folder,
    "is a FIFO": fifo,
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize("part", ["cert", "key", "ca"])
def test_a_bad_file_is_named(made: Certificates, part: str, spoil: Callable[[Path], object]) -> None:
    files = made.issue(EXPERT)
    file: Path = getattr(files, part)
    spoil(file)
    with pytest.raises(InvalidSetting) as raised:
        expert_settings(files)
    assert str(raised.value).startswith(f"CARACAL_TLS_{part.upper()} is {file}: ")
    assert "\n" not in str(raised.value)


def test_comments_around_certificates_are_no_matter(made: Certificates) -> None:
    files = made.issue(EXPERT)
    for file in (files.cert, files.ca):
        file.write_bytes("# of the authority of Köln\n".encode() + file.read_bytes() + "# Ende\xe4".encode("latin-1"))
    assert Tls(files, CLUSTER, EXPERT).given


def test_files_that_do_not_fit_each_other_are_named(made: Certificates, tmp_path: Path) -> None:
    files, another = made.issue(EXPERT), made.issue(ROUTER)
    with pytest.raises(InvalidSetting, match=r"CARACAL_TLS_KEY is .*router.key: it is not the key of the certificate"):
        expert_settings(TlsFiles(files.cert, another.key, files.ca))
    stranger = Certificates(tmp_path / "stranger").issue(EXPERT)
    with pytest.raises(InvalidSetting, match=r"CARACAL_TLS_CERT is .*expert.crt: "):
        expert_settings(TlsFiles(files.cert, files.key, stranger.ca))


def test_an_expired_certificate_is_named(made: Certificates) -> None:
    with pytest.raises(InvalidSetting, match=r"CARACAL_TLS_CERT is .*expert.crt: certificate has expired"):
        expert_settings(made.issue(EXPERT, valid=EXPIRED))


@pytest.mark.processes
def test_a_process_with_an_expired_certificate_ends_with_one_line(made: Certificates, tmp_path: Path) -> None:
    files = made.issue(EXPERT, valid=EXPIRED)
    env = {"PYTHONPATH": os.pathsep.join(sys.path), "CARACAL_MODEL": str(make_checkpoint(tmp_path / "model"))}
    env |= {"CARACAL_TLS_CERT": str(files.cert), "CARACAL_TLS_KEY": str(files.key), "CARACAL_TLS_CA": str(files.ca)}
    command = [sys.executable, "-m", "services.expert_worker"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr == f"caracal: CARACAL_TLS_CERT is {files.cert}: certificate has expired\n"


def test_files_that_change_are_read_again_and_bad_ones_change_nothing(made: Certificates) -> None:
    files = made.issue(EXPERT, valid=datetime.timedelta(days=30))
    tls = Tls(files, CLUSTER, EXPERT)
    assert abs(tls.expires - time.time() - 30 * 86400) < 60
    assert tls.generation == 0
    with structlog.testing.capture_logs() as logs:
        files.cert.write_text("half a certificate")
        time.sleep(LOOK_S + 0.1)
        assert tls.generation == 0
        time.sleep(LOOK_S + 0.1)
        assert tls.generation == 0
        made.issue(EXPERT, valid=datetime.timedelta(days=60))
        until(lambda: tls.generation == 1, "it is not read again", 5)
    assert tls.expires - time.time() > 59 * 86400
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [entry["reason"].partition(":")[0] for entry in warnings] == [str(files.cert)], "one line for each fault"
    os.utime(files.cert)
    time.sleep(LOOK_S + 0.1)
    assert tls.generation == 1, "the same certificate, written again"


def test_what_cannot_be_encrypted_is_refused_unless_it_is_allowed(made: Certificates) -> None:
    files = made.issue(ATTENTION)
    given: dict[str, Any] = {"tls_cert": str(files.cert), "tls_key": str(files.key), "tls_ca": str(files.ca)}
    for more, name in (({"link": "nccl"}, "CARACAL_LINK is 'nccl'"), ({"tp": 2, "device": "cuda"}, "CARACAL_TP is 2")):
        wanted: dict[str, Any] = {"model": Path("."), **given, **more}
        with pytest.raises(InvalidSetting, match=f"{name}: .*cannot be encrypted: CARACAL_ALLOW_PLAIN_P2P=1 allows"):
            AttentionSettings(**wanted)
        assert AttentionSettings(**wanted, allow_plain_p2p=True).p2p_allowed
        assert AttentionSettings(model=Path("."), **more).p2p_allowed, "without TLS nothing is asked"
    assert not expert_settings(made.issue(EXPERT)).p2p_allowed
    assert AttentionSettings(model=Path("."), tp=2, **given).tp == 2, "on CPUs, ranks talk over loopback"
    for link in ("native", "grpc", ""):
        chosen = AttentionSettings(model=Path("."), link=link, **given).chosen_link
        assert chosen == AttentionSettings(model=Path("."), link=link).chosen_link, "TLS changes no link"


def test_roles_are_read_from_names_of_this_cluster_only() -> None:
    names = [uri(CLUSTER, ROUTER), uri("other", EXPERT), "spiffe://caracal/caracal/admin", "https://caracal/"]
    assert roles_of(names, CLUSTER) == {ROUTER}
    assert roles_of((), CLUSTER) == frozenset()
