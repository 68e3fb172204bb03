"""One rank of a P2P group on a GPU that two processes share: sends payloads both ways and prints the outcome."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not list it in __all__

from services.transport.p2p_group import CALLER, P2PBroken, P2PGroup

SIZES = [1, 4096, 1_000_003, 7, 1 << 20]
DONE = "went both ways"


def share_one_gpu() -> str:
    """Lets NCCL's two ranks share one GPU; returns NCCL's version. NCCL reads these variables at its first call."""
    version = torch.cuda.nccl.version()
    os.environ["NCCL_SOCKET_IFNAME"] = "lo"
    if version >= (2, 30):
        os.environ["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"
    else:
        os.environ["NCCL_HOSTID"] = f"rank-{sys.argv[1]}"
    return "NCCL " + ".".join(map(str, version))


def main() -> None:
    rank, port = int(sys.argv[1]), int(sys.argv[2])
    nccl = share_one_gpu()
    device = torch.device("cuda", 0)
    store = TCPStore("127.0.0.1", port, None, rank == CALLER, timedelta(seconds=60), wait_for_workers=False)
    try:
        group = P2PGroup.connect(store, rank, 2 << 20, device, "127.0.0.1")
    except P2PBroken as error:
        print(f"{nccl}: no P2P group: {error}", flush=True)
        return
    for number, nbytes in enumerate(SIZES):
        right_N = torch.arange(nbytes, device=device).add_(number).to(torch.uint8)
        if rank == CALLER:
            sent = group.send(right_N)
            assert torch.equal(group.receive(nbytes, 30.0), right_N), nbytes
            sent.wait(30.0)
        else:
            got_N = group.receive(nbytes, 30.0).clone()
            group.send(got_N).wait(30.0)
    print(f"{nccl}: {DONE}", flush=True)
    if rank == CALLER:
        time.sleep(2)  # the other rank exits first, without notice
        began_s = time.monotonic()
        try:
            group.receive(1)
        except P2PBroken:
            print(f"noticed after {time.monotonic() - began_s:.2f} s", flush=True)
        group.abort()
    os._exit(0)


if __name__ == "__main__":
    main()
