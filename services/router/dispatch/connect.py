"""Which link an attention worker's exchange gets: the one that CARACAL_LINK names."""

from __future__ import annotations

from caracal_proto import placement_pb2

from services.router.dispatch.grpc_link import GrpcLink
from services.router.dispatch.links import Connect, Link
from services.router.dispatch.nccl_link import NcclLink, P2POptions

LINKS = ("grpc", "nccl")


def connector(link: str, options: P2POptions) -> Connect:
    """`link` is one of LINKS; for grpc the options say only in what dtype rows go out."""

    def connect(endpoint: placement_pb2.Endpoint) -> Link:
        return NcclLink(endpoint, options) if link == "nccl" else GrpcLink(endpoint, wire=options.wire)

    return connect
