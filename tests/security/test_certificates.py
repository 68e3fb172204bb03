"""The certificates of a cluster in Kubernetes: made where there are none, renewed in time, and good at every moment."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest
from cryptography import x509
from kubernetes import client
from support.secrets_api import NAMESPACE, SecretsApi

from services.certificates.authority import VALID, Authority, now
from services.certificates.renewal import (
    BELIEVED,
    CERT,
    KEY,
    LEFT,
    NEXT_CERT,
    ROTATE,
    SPREAD,
    BadAuthority,
    authorities,
    expires,
    role_data,
)
from services.certificates.run import AlwaysChanged, renew, renew_in_time
from services.certificates.secrets import SecretChanged, Secrets, SecretUnavailable
from services.certificates.settings import CertificateSettings
from services.process.settings import InvalidSetting
from services.security.certificate import Pem, checked
from services.security.identity import ROLES

pytestmark = pytest.mark.processes

CLUSTER, SECRETS = "models.caracal", "caracal-mtls"
NAMES = [f"{SECRETS}-{one}" for one in ("ca", *ROLES)]
DAYS = datetime.timedelta(days=90)
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
Data = Mapping[str, bytes]


@pytest.fixture
def api() -> Iterator[SecretsApi]:
    with SecretsApi(*NAMES) as api:
        yield api


@pytest.fixture
def secrets(api: SecretsApi) -> Secrets:
    return Secrets(client.CoreV1Api(client.ApiClient(client.Configuration(host=api.url))), NAMESPACE)


@pytest.fixture
def settings() -> CertificateSettings:
    return CertificateSettings(cluster=CLUSTER, secrets=SECRETS)


def usable(data: Data, role: str) -> float:
    """When the certificate of a role's Secret ends, if a process of the role can use it."""
    return checked(Pem(data[CERT], data[KEY], data[BELIEVED]), CLUSTER, role)


def test_every_role_gets_a_certificate_that_it_can_use(
    api: SecretsApi, secrets: Secrets, settings: CertificateSettings
) -> None:
    renew(secrets, settings)
    for role in ROLES:
        left = usable(api.data(f"{SECRETS}-{role}"), role) - now().timestamp()
        assert abs(left - DAYS.total_seconds()) < 60
        assert set(api.data(f"{SECRETS}-{role}")) == {CERT, KEY, BELIEVED}, "the authority's key is in its own alone"
    made = dict(api.secrets)
    renew(secrets, settings)
    assert api.secrets == made
    assert api.patched == NAMES, "the authority's came first, and nothing was done the second time"


def test_what_is_lost_or_of_others_is_made_again(
    api: SecretsApi, secrets: Secrets, settings: CertificateSettings
) -> None:
    renew(secrets, settings)
    other = Authority.made("other")
    own_cert, own_key = other.issue(CLUSTER, "expert", DAYS)
    good = api.data(f"{SECRETS}-expert")
    spoilt: dict[str, dict[str, bytes]] = {
        "lost": {},
        "no certificate": good | {CERT: b"no PEM"},
        "another's key": good | {KEY: own_key},
        "another authority's": good | {CERT: own_cert, KEY: own_key},
        "another role's": api.data(f"{SECRETS}-router"),
        "without authorities": {CERT: good[CERT], KEY: good[KEY]},
    }
    for what, data in spoilt.items():
        api.fill(f"{SECRETS}-expert", data)
        renew(secrets, settings)
        assert usable(api.data(f"{SECRETS}-expert"), "expert"), what


def test_an_authority_that_cannot_be_read_is_not_replaced(
    api: SecretsApi, secrets: Secrets, settings: CertificateSettings
) -> None:
    renew(secrets, settings)
    api.fill(NAMES[0], api.data(NAMES[0]) | {KEY: b"no PEM"})
    before = dict(api.secrets)
    with pytest.raises(BadAuthority, match=r"^Secret caracal-mtls-ca: tls.crt and tls.key are no authority"):
        renew(secrets, settings)
    assert api.secrets == before


def test_two_at_once_begin_again(api: SecretsApi, secrets: Secrets, settings: CertificateSettings) -> None:
    def another() -> None:
        api.before_patch = lambda: None
        renew(secrets, settings)

    api.before_patch = another
    with pytest.raises(SecretChanged, match="caracal-mtls-ca"):
        renew(secrets, settings)
    renew(secrets, settings)
    assert len(api.patched) == len(NAMES), "the other's are kept"
    api.fill(f"{SECRETS}-expert", {})
    api.before_patch = lambda: api.fill(f"{SECRETS}-expert", {})
    with pytest.raises(AlwaysChanged):
        renew_in_time(secrets, settings)
    api.before_patch = lambda: None
    renew_in_time(secrets, settings)
    assert usable(api.data(f"{SECRETS}-expert"), "expert")


def test_a_secret_that_is_not_there_is_named(api: SecretsApi, secrets: Secrets, settings: CertificateSettings) -> None:
    del api.secrets[f"{SECRETS}-attention"]
    with pytest.raises(SecretUnavailable, match=r"Secret caracal-mtls-attention: 404"):
        renew(secrets, settings)
    assert usable(api.data(f"{SECRETS}-router"), "router"), "what was done is kept"


def test_outside_a_cluster_one_line_says_so() -> None:
    given = {**os.environ, "CARACAL_SECRETS": SECRETS}
    command = [sys.executable, "-m", "services.certificates"]
    done = subprocess.run(command, capture_output=True, text=True, env=given, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("caracal: the service account cannot be used:")
    assert done.stderr.count("\n") == 1


def test_names_that_certificates_cannot_have_are_rejected() -> None:
    for cluster in ("", "a..b", "Models.caracal", "a_b", "-a", "a" * 64, "a." * 64 + "a"):
        with pytest.raises(InvalidSetting, match=r"^CARACAL_CLUSTER is "):
            CertificateSettings(cluster=cluster, secrets=SECRETS)


def test_for_twelve_years_a_run_each_day_leaves_every_peer_good_for_the_others() -> None:
    """Pods see what a run has written a day late at the latest; the certificates of both days are good for both."""
    ca: Data = {}
    role: Data = {}
    seen: list[Data] = []
    signers, issued = set(), set()
    today = START
    while today < START + 1.2 * VALID:
        ca = authorities(ca, CLUSTER, today)
        role = role_data(role, ca, CLUSTER, "expert", DAYS, today)
        seen = [*seen[-1:], role]
        for one in seen:
            for other in seen:
                assert is_believed(one[CERT], other[BELIEVED], today)
        assert expires(role[CERT]) - today > DAYS / 3
        assert ca[BELIEVED].count(b"BEGIN") <= 3
        signers.add(ca[CERT])
        issued.add(role[CERT])
        today += datetime.timedelta(days=1)
    assert len(signers) == 2, "each authority issues for nine years"
    assert len(issued) > VALID / DAYS


def is_believed(cert: bytes, believed: bytes, today: datetime.datetime) -> bool:
    shown = x509.load_pem_x509_certificate(cert)
    for one in x509.load_pem_x509_certificates(believed):
        own = one.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.key_identifier
        issuer = shown.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        if own == issuer and one.not_valid_before_utc <= today < one.not_valid_after_utc:
            return today < shown.not_valid_after_utc
    return False


def test_the_next_authority_is_believed_before_it_issues() -> None:
    first = authorities({}, CLUSTER, START)
    later = START + VALID - LEFT
    assert authorities(first, CLUSTER, later) == first
    both = authorities(first, CLUSTER, later + datetime.timedelta(hours=1))
    assert both[CERT] == first[CERT]
    assert both[BELIEVED] == both[CERT] + both[NEXT_CERT]
    second = authorities(both, CLUSTER, later + datetime.timedelta(hours=1) + SPREAD)
    assert second[CERT] == both[NEXT_CERT]
    assert NEXT_CERT not in second
    assert second[BELIEVED] == second[CERT] + first[CERT], "those of the first are good until they are replaced"
    assert authorities(second, CLUSTER, START + VALID + datetime.timedelta(days=1))[BELIEVED] == second[CERT]


def test_an_authority_is_replaced_at_once_where_somebody_asks_for_it(
    api: SecretsApi, secrets: Secrets, settings: CertificateSettings
) -> None:
    """In the steps of docs/runbooks.md: believed by all from now on, issuing a day later; asked for once."""
    renew(secrets, settings)
    first = api.data(NAMES[0])
    api.fill(NAMES[0], first | {ROTATE: b"yes"})
    renew(secrets, settings)
    both = api.data(NAMES[0])
    assert ROTATE not in both
    assert both[CERT] == first[CERT]
    assert both[BELIEVED] == first[CERT] + both[NEXT_CERT]
    assert all(api.data(name)[BELIEVED] == both[BELIEVED] for name in NAMES[1:])
    assert authorities(both | {ROTATE: b"yes"}, CLUSTER, now()) == both, "there is a next one already"
    later = authorities(both, CLUSTER, now() + SPREAD + datetime.timedelta(hours=1))
    assert later[CERT] == both[NEXT_CERT]
    assert later.keys() == first.keys()
