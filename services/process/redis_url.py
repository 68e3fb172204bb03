"""What is wrong with the URL of a Redis, said before anything connects to it."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, unquote, urlsplit

SCHEMES = ("redis", "rediss", "unix")
SENTINEL = "+sentinel"  # after redis or rediss: the hosts are Sentinels, and the path begins with the master's name
SENTINEL_PORT = 26379
SENTINEL_PARAMETERS = {"sentinel_username", "sentinel_password"}
# Parameters that change what a connection is, of those that the client reads. Timeouts are Caracal's own.
PARAMETERS = {"db", "username", "password", "client_name", "protocol"}
TLS_PARAMETERS = {
    "ssl_cert_reqs",
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_check_hostname",
    "ssl_min_version",
}


def url_violation(url: str) -> str:
    """What is wrong with it, in words; empty when nothing is."""
    scheme, found, _ = url.partition("://")
    scheme = scheme.lower()
    if not found:
        return "must begin with redis://, rediss:// or unix://"
    if "cluster" in scheme:
        return "Redis Cluster is not supported: name one Redis with redis://, rediss:// or unix://"
    if is_sentinel(url):
        return _sentinel_violation(url)
    if scheme not in SCHEMES:
        return f"{scheme}:// is not supported: must begin with redis://, rediss:// or unix://, or redis+sentinel://"
    try:
        parts = urlsplit(url)
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        named = parts.path if scheme == "unix" else parts.hostname
        host = parts.netloc.rpartition("@")[2]
        if "," in host:
            return "it names several hosts, which only a URL redis+sentinel:// may"
        if not named or parts.fragment or (scheme != "unix" and parts.port == 0):
            raise ValueError
    except ValueError:
        return "not a URL like redis://:PASSWORD@HOST:6379/0; write # / ? and @ of a password as %23 %2F %3F and %40"
    known = PARAMETERS | (TLS_PARAMETERS if scheme == "rediss" else set())
    if unknown := sorted(parameters.keys() - known):
        return f"it has the parameter {unknown[0][:40]!r}, which is not supported"
    database = parameters.get("db", "" if scheme == "unix" else unquote(parts.path).strip("/"))
    return _database_violation(database)


def is_sentinel(url: str) -> bool:
    return url.partition("://")[0].lower() in (f"redis{SENTINEL}", f"rediss{SENTINEL}")


def sentinels(url: str) -> list[tuple[str, int]]:
    """The host and port of each Sentinel. Raises ValueError for what is none."""
    hosts = urlsplit(url).netloc.rpartition("@")[2].split(",")
    found = [urlsplit(f"//{host}") for host in hosts]
    if not all(one.hostname and one.port != 0 for one in found):
        raise ValueError(url)
    return [(str(one.hostname), one.port or SENTINEL_PORT) for one in found]


def _sentinel_violation(url: str) -> str:
    try:
        parts = urlsplit(url)
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        sentinels(url)
        if parts.fragment:
            raise ValueError(url)
    except ValueError:
        return "not a URL like redis+sentinel://USER:PASSWORD@HOST:26379,HOST:26379/MASTER/0"
    known = PARAMETERS - {"db"} | SENTINEL_PARAMETERS
    known |= TLS_PARAMETERS if parts.scheme == f"rediss{SENTINEL}" else set()
    if unknown := sorted(parameters.keys() - known):
        return f"it has the parameter {unknown[0][:40]!r}, which is not supported"
    name, _, database = unquote(parts.path).strip("/").partition("/")
    if not re.fullmatch(r"[\w.-]{1,200}", name):
        return f"{name[:20]!r} is not the name of a master: it comes after the hosts, as in /MASTER/0"
    return _database_violation(database)


def _database_violation(database: str) -> str:
    return "" if re.fullmatch("[0-9]{0,6}", database) else f"{database[:20]!r} is not the number of a database"


def with_authorities(url: str, file: str) -> str:
    """The URL of a Redis over TLS whose certificate may also be of these authorities; others stay as they are."""
    scheme, (where, _, query) = url.partition("://")[0].lower(), url.partition("?")
    if not file or scheme not in ("rediss", f"rediss{SENTINEL}") or "ssl_ca_certs" in dict(parse_qsl(query)):
        return url
    return f"{where}?{'&'.join([*filter(None, [query]), f'ssl_ca_certs={quote(file)}'])}"


def with_password(url: str, password: str) -> str:
    """The URL with the password of Redis' user `default`, whatever characters it has; a URL has none of its own.

    The user is named: a Redis that has no password yet takes any from a named user, and rejects one without a name.
    """
    scheme, _, rest = url.partition("://")
    return f"{scheme}://default:{quote(password, safe='')}@{rest}" if password else url


def has_user(url: str) -> bool:
    """Whether the URL has a user or a password."""
    parts = urlsplit(url)
    return "@" in parts.netloc or bool({"username", "password"} & dict(parse_qsl(parts.query)).keys())


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    masked = re.sub(r"^(\w[\w+.-]*://)?([^:@/]*):.*@", r"\1\2:***@", url)
    return re.sub(r"password=[^&]*", "password=***", masked)
