"""Chooses an attention worker's link to expert workers: the one that CARACAL_LINK names."""

from __future__ import annotations

from caracal_proto import placement_pb2

from services.router.dispatch.grpc_link import GrpcLink
from services.router.dispatch.links import Connect, Link
from services.router.dispatch.nccl_link import NcclLink, P2POptions

LINKS = ("grpc", "nccl")


def connector(link: str, options: P2POptions) -> Connect:
    """Returns a function that connects to a worker by `link`, one of LINKS; grpc uses only `options.dispatch_dtype`."""

    def connect(endpoint: placement_pb2.Endpoint) -> Link:
        return (
            NcclLink(endpoint, options) if link == "nccl" else GrpcLink(endpoint, dispatch_dtype=options.dispatch_dtype)
        )

    return connect
