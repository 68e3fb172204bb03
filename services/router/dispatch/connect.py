"""Chooses an attention worker's links to expert workers: the kind that CARACAL_LINK names."""

from __future__ import annotations

from collections.abc import Callable

import torch
from caracal_proto import placement_pb2

from services.router.dispatch.grpc_link import GrpcLink
from services.router.dispatch.links import Connect, Link
from services.router.dispatch.native_fanout import NativeFanout, NativeOptions
from services.router.dispatch.nccl_link import NcclLink, P2POptions
from services.router.dispatch.shadow_calls import ShadowOptions
from services.router.dispatch.table import Key
from services.security.channels import PLAIN, Dialer

LINKS = ("grpc", "nccl", "native")


def connector(link: str, p2p: P2POptions, native: NativeOptions, dialer: Dialer = PLAIN) -> Connect:
    """Returns what connects to a worker by `link`, one of LINKS; grpc uses only `p2p.dispatch_dtype`.

    Raises NativeUnavailable.
    """
    if link == "native":
        return NativeFanout(native, dialer)

    def connect(endpoint: placement_pb2.Endpoint) -> Link:
        if link == "nccl":
            return NcclLink(endpoint, p2p, dialer)
        return GrpcLink(endpoint, dialer, p2p.dispatch_dtype)

    return connect


def shadow_options(
    share: float, dispatch_dtype: torch.dtype, dialer: Dialer, convict: Callable[[Key, str], None]
) -> ShadowOptions:
    """How calls are computed again: over gRPC, whatever the link is, so over other code as well."""

    def connect(endpoint: placement_pb2.Endpoint) -> Link:
        return GrpcLink(endpoint, dialer, dispatch_dtype)

    return ShadowOptions(share=share, connect=connect, convict=convict)
