"""Settings of every role: read once from the environment, checked by one set of rules, rejected by name.

A field `name` of a settings class is the variable CARACAL_NAME. Its default, meaning and bounds stand at the field and
nowhere else; docs/settings.md is made from them (`caracal settings --markdown`).
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from services.process.cores import format_cores, own_cores, parse_cores
from services.process.redis_url import has_user, url_violation, with_authorities, with_password, without_password
from services.security.cluster_key import ClusterKey, key_violation
from services.security.tls import Tls, TlsFiles, authorities_violation, tls_violation

PREFIX = "CARACAL_"


class InvalidSetting(ValueError):
    """A setting that cannot be used. One line that begins with its name: a variable's, or an option's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a setting means and which values it may have. Bounds are inclusive; `above` is not."""

    help: str
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    multiple_of: int = 0
    one_of: tuple[str, ...] = ()
    secret: bool = False  # its value is never shown

    def violation(self, value: Any) -> str:
        """What is wrong with a value, in words; empty when nothing is."""
        if self.one_of and value not in self.one_of:
            named = [choice or "empty" for choice in self.one_of]
            return f"must be {', '.join(named[:-1])} or {named[-1]}" if len(named) > 1 else f"must be {named[0]}"
        if isinstance(value, float) and not math.isfinite(value):
            return "must be a finite number"
        if self.minimum is not None and value < self.minimum:
            return f"must be at least {self.minimum:g}"
        if self.maximum is not None and value > self.maximum:
            return f"must be at most {self.maximum:g}"
        if self.above is not None and value <= self.above:
            return f"must be above {self.above:g}"
        if self.multiple_of and value % self.multiple_of:
            return f"must be a multiple of {self.multiple_of}"
        return ""


def setting(help: str, default: Any = MISSING, **rule: Any) -> Any:
    """A field of a settings class; without a default it has to be given. `rule`: further arguments of Rule."""
    return field(default=default, repr=not rule.get("secret"), metadata={"rule": Rule(help=help, **rule)})


def setting_like(settings: type[Settings], name: str) -> Any:
    """A field with the default and the rule of another class's field."""
    like = next(each for each in fields(settings) if each.name == name)
    return field(default=like.default, metadata=like.metadata)


def port_setting(help: str, default: int = 0) -> Any:
    return setting(f"{help}; 0 = any free one", default, minimum=0, maximum=65535)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of all settings. Raises InvalidSetting when it is made with a value that breaks a rule."""

    def __post_init__(self) -> None:
        for each in fields(self):
            self.check(each.name, getattr(self, each.name))
        self.validate()

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Raises InvalidSetting. An empty variable counts as not set."""
        environ = os.environ if environ is None else environ
        given: dict[str, Any] = {}
        for each in fields(cls):
            text = environ.get(PREFIX + each.name.upper(), "")
            if text:
                given[each.name] = cls._parsed(each.name, text, str(each.type))
            elif each.default is MISSING:
                raise InvalidSetting(f"{cls.label(each.name)} is not set: {rule_of(cls, each.name).help}")
        return cls(**given)

    @classmethod
    def label(cls, name: str) -> str:
        """What users call the setting."""
        return PREFIX + name.upper()

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """Raises InvalidSetting when the value breaks the field's rule."""
        violation = rule_of(cls, name).violation(value)
        if violation:
            raise cls.invalid(name, value, violation)

    @classmethod
    def invalid(cls, name: str, value: Any, why: str) -> InvalidSetting:
        """The one form of what is wrong with a setting."""
        if rule_of(cls, name).secret:
            return InvalidSetting(f"{cls.label(name)}: {why}")
        shown = str(value) if isinstance(value, Path) else repr(value)
        return InvalidSetting(f"{cls.label(name)} is {shown}: {why}")

    def validate(self) -> None:
        """Rules between several fields. Raises InvalidSetting."""

    @classmethod
    def _parsed(cls, name: str, text: str, kind: str) -> Any:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise cls.invalid(name, text, "not UTF-8") from None
        if kind == "bool":
            if text.lower() not in ("0", "1", "true", "false"):
                raise cls.invalid(name, text, "must be 0 or 1")
            return text.lower() in ("1", "true")
        if choices := rule_of(cls, name).one_of:
            return next((choice for choice in choices if choice.lower() == text.lower()), text)
        try:
            return {"int": int, "float": float, "str": str, "Path": Path}[kind](text)
        except ValueError:
            raise cls.invalid(name, text, "not a number" if kind == "float" else "not a whole number") from None


def rule_of(settings: type[Settings], name: str) -> Rule:
    """A field's rule."""
    rule = next(each.metadata["rule"] for each in fields(settings) if each.name == name)
    assert isinstance(rule, Rule)
    return rule


@dataclass(frozen=True, kw_only=True)
class ServiceSettings(Settings):
    """What router, attention worker and expert worker have in common."""

    role: ClassVar[str]  # as certificates and leases name it

    model: Path = setting("directory of the checkpoint, in Hugging Face's layout")  # noqa: RUF009  a dataclass field
    redis_url: str = setting("the cluster's Redis", "redis://127.0.0.1:6379/0")
    redis_next_url: str = setting(
        "another Redis, which is asked while the one of CARACAL_REDIS_URL does not answer or lets nobody in: so a"
        " cluster moves there; empty = none",
        "",
    )
    redis_password: str = setting(
        "password of Redis' user `default`, with any characters, for a CARACAL_REDIS_URL without one; empty = none",
        "",
        secret=True,
    )
    redis_ca: str = setting(
        "file with further authorities, in PEM, whose certificates a Redis at rediss:// may show; empty = only those of"
        " this machine",
        "",
    )
    cluster: str = setting("prefix of every Redis key: clusters of different names may share a Redis", "caracal")
    host: str = setting("address to listen on, IPv4 or IPv6, or a name; 0.0.0.0 and :: mean all", "127.0.0.1")
    advertise_host: str = setting("address at which others reach this process; empty = CARACAL_HOST", "")
    worker_id: str = setting("unique name of this process; empty = the machine's name", "")
    log_level: str = setting("least severity that is logged", "INFO", one_of=("DEBUG", "INFO", "WARNING", "ERROR"))
    cluster_key: str = setting(
        "secret of all processes of the cluster, of at least 16 bytes: they sign calls and what they write to Redis"
        " with it, and reject what is not signed; empty = they do not",
        "",
        secret=True,
    )
    cluster_key_file: str = setting(
        "file with that secret instead, read again when it changes: one key a line, of which the first signs and each"
        " verifies; empty = none",
        "",
    )

    tls_cert: str = setting(
        "file with this process's certificate, in PEM, for TLS with the cluster's other processes; with the two that"
        " follow, and read again when they change; empty = no TLS",
        "",
    )
    tls_key: str = setting("file with the certificate's private key, in PEM without a password", "")
    tls_ca: str = setting(
        "file with the certificates of the authorities whose certificates others may show, in PEM", ""
    )

    def validate(self) -> None:
        self._validate_tls()
        file = Path(self.cluster_key_file) if self.cluster_key_file else None
        if violation := key_violation(self.cluster_key, file):
            name = "cluster_key" if self.cluster_key else "cluster_key_file"
            raise self.invalid(name, getattr(self, name), violation)
        for name in ("redis_url", *(["redis_next_url"] if self.redis_next_url else [])):
            if violation := url_violation(getattr(self, name)):
                raise self.invalid(name, without_password(getattr(self, name)), violation)
        if self.redis_password and has_user(self.redis_url):
            raise self.invalid("redis_password", "", "CARACAL_REDIS_URL has a user or a password already")
        if self.redis_ca and (violation := authorities_violation(Path(self.redis_ca))):
            raise self.invalid("redis_ca", Path(self.redis_ca), violation)

    @property
    def redis(self) -> str:
        """The URL to connect to."""
        return with_authorities(with_password(self.redis_url, self.redis_password), self.redis_ca)

    @property
    def redis_next(self) -> str:
        """The URL to connect to while that one does not answer; empty = none. Its password is its own."""
        return with_authorities(self.redis_next_url, self.redis_ca)

    def open_cluster_key(self) -> ClusterKey:
        """The cluster key, to be opened once by a process. Raises BadKey when the file has changed since the check."""
        return ClusterKey(self.cluster_key, Path(self.cluster_key_file) if self.cluster_key_file else None)

    @property
    def tls_files(self) -> TlsFiles | None:
        """The files of TLS; None when it is off."""
        if not self.tls_cert:
            return None
        return TlsFiles(Path(self.tls_cert), Path(self.tls_key), Path(self.tls_ca))

    def open_tls(self) -> Tls:
        """The certificate, to be opened once by a process. Raises BadTls when a file has changed since the check."""
        return Tls(self.tls_files, self.cluster, self.role)

    def _validate_tls(self) -> None:
        given = {name: getattr(self, name) for name in ("tls_cert", "tls_key", "tls_ca")}
        missing = [name for name, file in given.items() if not file]
        if 0 < len(missing) < len(given):
            raise InvalidSetting(
                f"{self.label(missing[0])} is not set: TLS needs a certificate, its key and authorities"
            )
        if (files := self.tls_files) is not None:
            part, why = tls_violation(files, self.cluster, self.role)
            if why:
                name = "cluster" if part == "cluster" else f"tls_{part}"
                raise self.invalid(name, Path(getattr(self, name)), why)

    @property
    def identity(self) -> str:
        return self.worker_id or socket.gethostname()

    @property
    def reachable_host(self) -> str:
        return self.advertise_host or self.host


@dataclass(frozen=True, kw_only=True)
class WorkerSettings(ServiceSettings):
    """What attention and expert workers have in common."""

    port: int = port_setting("gRPC port")
    metrics_port: int = port_setting("port of /metrics and /ready")
    dtype: str = setting(
        "dtype of the weights in memory; empty = the checkpoint's", "", one_of=("bfloat16", "float32", "")
    )
    device: str = setting("where weights lie and kernels run: cpu, cuda (the first GPU) or cuda:N", "cpu")
    threads: int = setting("threads of the kernels; 0 = torch's choice", 0, minimum=0, maximum=1024)
    cores: str = setting(
        "cores for the threads that compute, like 0-3,6; the others, which serve clients, run on any. Empty = any", ""
    )
    spin_us: int = setting(
        "microseconds a native session polls before it sleeps; 0, or a CPU limit below one core, sleeps at once",
        200,
        minimum=0,
        maximum=10_000,
    )
    dispatch_dtype: str = setting(
        "dtype of rows sent to experts; empty = the model's. Attention and expert workers need the same one",
        "",
        one_of=("fp8", ""),
    )
    kv_dtype: str = setting(
        "dtype of latents in the cache: fp8 (a scale for 128 values) takes little more than half the memory and "
        "changes answers; empty = the model's. Attention and expert workers need the same one",
        "",
        one_of=("fp8", ""),
    )

    scrub_s: float = setting(
        "seconds in which all weights in host memory are compared once with what was read, longer where that would take"
        " more than 2 % of the cores, and expert workers compute one golden row every 5 s; 0 = never",
        60.0,
        minimum=0,
    )
    allow_plain_p2p: bool = setting(
        "1: with TLS, P2P groups between workers and NCCL between ranks are used all the same, which nothing encrypts:"
        " for a network that is trusted",
        False,
    )

    @property
    def p2p_allowed(self) -> bool:
        """Whether NCCL and gloo may carry rows to other machines: they cannot be encrypted."""
        return self.tls_files is None or self.allow_plain_p2p

    @property
    def core_set(self) -> frozenset[int]:
        """The cores for the threads that compute; empty = any."""
        return parse_cores(self.cores)

    @property
    def kernel_threads(self) -> int:
        """Threads of the kernels; 0 = torch's choice."""
        return self.threads or len(self.core_set)

    def validate(self) -> None:
        super().validate()
        try:
            unusable = parse_cores(self.cores) - own_cores()
        except ValueError as error:
            raise self.invalid("cores", self.cores, str(error)) from None
        if unusable:
            raise self.invalid("cores", self.cores, f"this process may not use {format_cores(frozenset(unusable))}")
