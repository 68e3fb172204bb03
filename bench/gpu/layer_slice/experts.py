"""The slice's expert worker: all experts of its layers behind the real server and batcher, without a lease."""

from __future__ import annotations

import sys

import torch

from bench.gpu.layer_slice.spec import SliceSpec, send, share_one_gpu
from services.checkpoint.device import computes_fp8, find_device
from services.checkpoint.numerics import kernels_of
from services.expert_worker.batcher import Batcher
from services.expert_worker.experts import Experts
from services.expert_worker.p2p_registry import P2PRegistry
from services.expert_worker.placement_state import PlacementState
from services.expert_worker.server import ExpertServer
from services.expert_worker.service import ExpertService
from services.process.telemetry import configure_logging

MAX_SESSIONS = 4
PAYLOAD_BYTES = 1 << 30  # the largest payload of a call


def main() -> None:
    configure_logging("expert", "slice")
    spec = SliceSpec.from_arguments()
    device = find_device(spec.device)
    if device.type == "cuda":
        share_one_gpu("expert")
    kernels_of(device)  # checks which tiles may depend on rows, as a worker does
    experts = Experts(spec.checkpoint(), torch.bfloat16, device, keep_fp8=computes_fp8(device))
    for layer in range(experts.num_layers):
        for expert in range(experts.num_ffn):
            experts.load(layer, expert)
    placement = PlacementState(experts, "expert", "slice", "random")
    batcher = Batcher(experts.compute, experts.num_layers, experts.num_ffn)
    service = ExpertService(placement, batcher, P2PRegistry("127.0.0.1", device, PAYLOAD_BYTES))
    server = ExpertServer(service, MAX_SESSIONS)
    port = server.start("127.0.0.1", 0)
    server.set_ready(True)
    send({"address": f"127.0.0.1:{port}", "experts": len(experts.loaded)})
    sys.stdin.read()  # until the benchmark closes it or exits
    server.stop(1.0)


if __name__ == "__main__":
    main()
