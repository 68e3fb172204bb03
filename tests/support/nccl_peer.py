"""One side of a pair on a GPU that two processes share: payload both ways, and what became of it on stdout."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta

import torch
from torch.distributed import TCPStore

from services.transport.p2p_group import CALLER, P2PBroken, P2PGroup

SIZES = [1, 4096, 1_000_003, 7, 1 << 20]
DONE = "went both ways"


def share_one_gpu() -> str:
    """How NCCL is pushed that its two ranks are meant to share a GPU; it is read before NCCL's first call."""
    version = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]  # torch leaves it bare
    os.environ["NCCL_SOCKET_IFNAME"] = "lo"
    if version >= (2, 30):
        os.environ["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"
    else:
        os.environ["NCCL_HOSTID"] = f"rank-{sys.argv[1]}"
    return "NCCL " + ".".join(map(str, version))


def main() -> None:
    rank, port = int(sys.argv[1]), int(sys.argv[2])
    said = share_one_gpu()
    device = torch.device("cuda", 0)
    store = TCPStore("127.0.0.1", port, None, rank == CALLER, timedelta(seconds=60), wait_for_workers=False)
    try:
        pair = P2PGroup.meet(store, rank, 2 << 20, device, "127.0.0.1")
    except P2PBroken as error:
        print(f"{said}: no pair: {error}", flush=True)
        return
    for number, nbytes in enumerate(SIZES):
        right_N = torch.arange(nbytes, device=device).add_(number).to(torch.uint8)
        if rank == CALLER:
            sent = pair.send(right_N)
            assert torch.equal(pair.receive(nbytes, 30.0), right_N), nbytes
            sent.wait(30.0)
        else:
            got_N = pair.receive(nbytes, 30.0).clone()
            pair.send(got_N).wait(30.0)
    print(f"{said}: {DONE}", flush=True)
    if rank == CALLER:
        time.sleep(2)  # the other side dies first, and says nothing
        began_s = time.monotonic()
        try:
            pair.receive(1)
        except P2PBroken:
            print(f"noticed after {time.monotonic() - began_s:.2f} s", flush=True)
        pair.abort()
    os._exit(0)


if __name__ == "__main__":
    main()
