"""The cluster that a record is replayed on: one that runs, or one that is started for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path

from services.attention_worker.settings import AttentionSettings
from services.cli.cluster_redis import open_key, open_membership
from services.cli.run_state import NoCluster, RunState, find
from services.cli.verify.replay import CannotReplay, Cluster
from services.expert_worker.settings import ExpertSettings
from services.local.cluster import LocalCluster, StartFailed, certificate_environment
from services.local.redis_server import NoRedis
from services.local.settings import LocalSettings
from services.membership.redis import RedisUnavailable
from services.process.settings import PREFIX, InvalidSetting
from services.router.settings import RouterSettings
from services.security.certificate import BadTls
from services.security.channels import Dialer
from services.security.cluster_key import ClusterKey
from services.security.identity import ROUTER
from services.security.tls import Tls, TlsFiles

READY_S = 300.0
# Set by the cluster itself, by an option of this command, or of no use in it.
NOT_SET = {
    "model": "--model",
    "tp": "--tp",
    "link": "--link",
    **dict.fromkeys(
        ("redis_url", "cluster", "cluster_key", "cluster_key_file", "worker_id", "port", "grpc_port", "metrics_port"),
        "",
    ),
    **dict.fromkeys(("host", "advertise_host", "tls_cert", "tls_key", "tls_ca", "record", "drain_timeout_s"), ""),
}


def parse_settings(given: Sequence[str]) -> dict[str, str]:
    """The variables of `--set CARACAL_NAME=VALUE`. Raises InvalidSetting for one that no process reads."""
    known = {each.name for role in (RouterSettings, AttentionSettings, ExpertSettings) for each in fields(role)}
    found: dict[str, str] = {}
    for text in given:
        name, assigned, value = text.partition("=")
        field = name.removeprefix(PREFIX).lower()
        if not assigned or name != PREFIX + field.upper() or field not in known:
            raise InvalidSetting(f"--set {text}: {name or 'it'} is no setting; write {PREFIX}NAME=VALUE")
        if field in NOT_SET:
            raise InvalidSetting(f"--set {text}: {NOT_SET[field] or 'this command'} sets {name}")
        found[name] = value
    return found


@asynccontextmanager
async def started(settings: LocalSettings, report: Callable[[int, int], None]) -> AsyncIterator[Cluster]:
    """A cluster of its own, which ends with the block. Raises CannotReplay when it does not start."""
    try:
        local = LocalCluster(settings)
    except InvalidSetting as error:
        raise CannotReplay(str(error)) from None
    kept: asyncio.Task[None] | None = None
    try:
        try:
            await local.start()
            await local.ready(READY_S, report)
        except (InvalidSetting, NoRedis, StartFailed) as error:
            raise CannotReplay(f"the cluster to replay on does not start: {error}") from None
        kept = asyncio.create_task(local.run())
        key = ClusterKey(file=local.key_file)
        folder = local.directory / "tls" if settings.tls else None
        yield Cluster(local.membership, Dialer(key, ROUTER, _tls(folder, local.cluster)))
    finally:
        if kept is not None:
            kept.cancel()
            await asyncio.gather(kept, return_exceptions=True)
        await local.stop()


@asynccontextmanager
async def running(url: str) -> AsyncIterator[Cluster]:
    """The cluster that a gateway's URL names, or that other commands find. Raises CannotReplay."""
    try:
        state = find(url)
        if not state.redis_url:
            raise NoCluster(
                f"{state.url} was not started here: set CARACAL_REDIS_URL, and the cluster's key, to reach its workers"
            )
        membership, key = open_membership(state), open_key(state)
        cluster = Cluster(membership, Dialer(key, ROUTER, _tls_of(state)))
    except (NoCluster, BadTls, InvalidSetting) as error:
        raise CannotReplay(str(error)) from None
    try:
        yield cluster
    finally:
        await membership.close()


def _tls_of(state: RunState) -> Tls:
    """A router's certificate: that of `caracal up --tls`, or the environment's."""
    folder = Path(state.directory) / "tls"
    return _tls(folder if state.directory and folder.is_dir() else None, state.cluster, os.environ)


def _tls(folder: Path | None, cluster: str, environ: Mapping[str, str] | None = None) -> Tls:
    variables = certificate_environment(folder, ROUTER) if folder else environ or {}
    cert, key, ca = (variables.get(f"{PREFIX}TLS_{part}", "") for part in ("CERT", "KEY", "CA"))
    if not cert:
        return Tls()
    return Tls(TlsFiles(Path(cert), Path(key), Path(ca)), cluster, ROUTER)


async def classes_of(cluster: Cluster, wait_s: float = 10.0) -> dict[str, dict[str, str]]:
    """The parts of each numerics class that attention workers have now, waiting `wait_s` for a first worker.
    Raises CannotReplay when there is none."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while True:
        try:
            found = {one.numerics_class: dict(one.numerics) for one in await cluster.workers()}
        except RedisUnavailable as error:
            raise CannotReplay(f"the cluster's Redis does not answer: {error}") from None
        if found or loop.time() > deadline:
            break
        await asyncio.sleep(0.2)
    if not found:
        raise CannotReplay("the cluster has no attention worker that takes requests")
    return found
