"""Chooses an attention worker's links to expert workers: the kind that CARACAL_LINK names."""

from __future__ import annotations

from caracal_proto import placement_pb2

from services.router.dispatch.grpc_link import GrpcLink
from services.router.dispatch.links import Connect, Link
from services.router.dispatch.native_fanout import NativeFanout, NativeOptions
from services.router.dispatch.nccl_link import NcclLink, P2POptions

LINKS = ("grpc", "nccl", "native")


def connector(link: str, p2p: P2POptions, native: NativeOptions) -> Connect:
    """Returns what connects to a worker by `link`, one of LINKS; grpc uses only `p2p.dispatch_dtype`.

    Raises NativeUnavailable.
    """
    if link == "native":
        return NativeFanout(native)

    def connect(endpoint: placement_pb2.Endpoint) -> Link:
        return NcclLink(endpoint, p2p) if link == "nccl" else GrpcLink(endpoint, dispatch_dtype=p2p.dispatch_dtype)

    return connect
