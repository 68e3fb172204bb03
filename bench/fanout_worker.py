"""Many fake expert workers in one process, which answer with zeros. `python -m bench.fanout_worker HIDDEN [TLS]`.

They speak both links, so that what a message costs its caller can be compared. It prints its address and serves until
its standard input ends. With a folder of certificates, as `caracal up --tls` makes it, both links are encrypted.
"""

from __future__ import annotations

import secrets
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from caracal_proto import expert_pb2, expert_pb2_grpc, tensor_pb2
from caracal_proto.tensors import checksum

from services.process.grpc_server import listen
from services.security.identity import EXPERT
from services.security.tls import NO_TLS, Tls, TlsFiles
from services.transport.native_extension import native

if TYPE_CHECKING:
    from services.transport._native import Launch

CLUSTER = "bench"
MAX_SESSIONS = 256
VALUE_BYTES = 2  # bfloat16


def zeros(
    layer: int, waited: list[float], rows: int, payload: Any, row: Any, expert: Any, out: memoryview | None
) -> None:
    if out is not None:
        out[:] = bytes(len(out))


class FakeWorkers(expert_pb2_grpc.ExpertServicer):
    """Answers every call of every session with zeros of the right shape, or native ones by `launch`."""

    def __init__(self, hidden: int, launch: Launch = zeros, encrypted: bool = False) -> None:
        module = native()
        self._keys_bytes = module.KEYS_BYTES if encrypted else 0
        self._hidden = hidden
        listener = socket.create_server(("127.0.0.1", 0), backlog=MAX_SESSIONS)
        self._port = listener.getsockname()[1]
        self._server = module.Server(
            module.Expected(
                layers=1 << 16,
                experts=1 << 16,
                hidden=hidden,
                dispatch_dtype=tensor_pb2.BFLOAT16,
                reply_dtype=tensor_pb2.BFLOAT16,
                dispatch_dtype_name="torch.bfloat16",
                planes=[hidden * VALUE_BYTES],
                max_rows=8192,
                max_assignments=8192,
            ),
            MAX_SESSIONS,
            0.0,
            launch,
        )
        listener.setblocking(False)
        self._server.listen(listener.detach())

    def Open(self, request: expert_pb2.OpenRequest, context: Any) -> expert_pb2.OpenReply:
        token, session = secrets.token_bytes(32), secrets.randbits(62) + 1
        keys = secrets.token_bytes(self._keys_bytes)
        self._server.expect(token, session, 30.0, keys)
        return expert_pb2.OpenReply(
            session=session,
            token=token,
            host="127.0.0.1",
            port=self._port,
            unix_name="none",
            max_rows=8192,
            max_assignments=8192,
            keys=keys,
        )

    def Describe(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def Prepare(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def Commit(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def Load(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def Rendezvous(self, request_iterator: Any, context: Any) -> Any:
        raise NotImplementedError

    def Tensors(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def Session(
        self, request_iterator: Iterator[expert_pb2.ExpertCall], context: Any
    ) -> Iterator[expert_pb2.ExpertReply]:
        for call in request_iterator:
            rows = len(call.row) // 4
            data = bytes(rows * self._hidden * VALUE_BYTES)
            y = tensor_pb2.Tensor(data=data, shape=(rows, self._hidden), dtype=tensor_pb2.BFLOAT16)
            yield expert_pb2.ExpertReply(call=call.call, rows=rows, y=y, checksum=checksum(data))


def tls_of(folder: Path, role: str) -> Tls:
    """A role's TLS, from the files of `make_certificates`."""
    return Tls(TlsFiles(folder / f"{role}.crt", folder / f"{role}.key", folder / "ca.crt"), CLUSTER, role)


def start(workers: FakeWorkers, tls: Tls = NO_TLS) -> grpc.Server:
    """Serves them; prints the address."""
    server = grpc.server(ThreadPoolExecutor(MAX_SESSIONS))
    expert_pb2_grpc.add_ExpertServicer_to_server(workers, server)
    port = listen(server, "127.0.0.1", 0, tls.server(lambda: None) if tls.given else None)
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    return server


def main() -> None:
    tls = tls_of(Path(sys.argv[2]), EXPERT) if len(sys.argv) > 2 else NO_TLS
    server = start(FakeWorkers(int(sys.argv[1]), encrypted=tls.given), tls)
    sys.stdin.read()
    server.stop(0)


if __name__ == "__main__":
    main()
