"""The slice's attention side: times decode steps over the real dispatcher, with and without overlap, and their parts.

The modes are interleaved, so that drift affects all of them.
Legend: T rows, S sequences, B rows sampled, D hidden, P pages of I positions, L cached width, X pages of a sequence.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from caracal_kernels import GateWeights
from caracal_proto import placement_pb2
from caracal_proto.placements import layer_of
from torch import Tensor

from bench.gpu.layer_slice.spec import SliceSpec, send, share_one_gpu
from services.attention_worker.model.model import Model, load_model
from services.attention_worker.model.step import Step
from services.checkpoint.device import find_device
from services.checkpoint.numerics import kernels_of
from services.process.telemetry import configure_logging
from services.router.dispatch.grpc_link import GrpcLink
from services.router.dispatch.links import Link
from services.router.dispatch.moe_dispatcher import MoEDispatcher
from services.router.dispatch.nccl_link import NcclLink, P2POptions, P2PStats
from services.transport.payload import dispatch_dtype_of

CONNECT_S = 30.0
TIMEOUT_S = 60.0  # of a call: the first one compiles kernels


class Dense:
    """A dispatcher that sends nothing, so that a step runs the dense path only."""

    def start(self, layer: int, h_TD: Tensor, gate: GateWeights, step: Step) -> Dense:
        return self

    def finish(self, residual_TD: Tensor) -> Tensor:
        return residual_TD


@dataclass(frozen=True)
class Side:
    """The model, and a second reference to its gates, for the expert path alone."""

    model: Model
    gates: list[GateWeights]
    device: torch.device

    @classmethod
    def random(cls, spec: SliceSpec) -> Side:
        device, checkpoint = find_device(spec.device), spec.checkpoint()
        kernels_of(device)  # checks which tiles may depend on rows, as a worker does
        model = load_model(checkpoint, torch.bfloat16, lambda done, total: None, device=device)
        names = [f"model.layers.{i}.mlp.router." for i in range(model.config.num_layers)]
        gates = [
            GateWeights(
                *(
                    checkpoint.tensor(name + part, torch.float32).to(device)
                    for part in ("classifier.weight", "e_score_correction_bias")
                )
            )
            for name in names
        ]
        return cls(model, gates, device)


def caches_and_step(spec: SliceSpec, side: Side, rows: int) -> tuple[list[Tensor], Step]:
    """Returns full caches with pages in random order, and a step that adds one token to each sequence."""
    pages, position = -(-spec.context // spec.page_size), spec.context - 1
    caches = side.model.new_cache(rows * pages, spec.page_size)
    for cache_PIL in caches:
        cache_PIL.normal_()
    table_TX = torch.randperm(rows * pages).int().view(rows, pages)
    slot_mapping_T = table_TX[:, position // spec.page_size] * spec.page_size + position % spec.page_size
    step = Step(
        number=1,
        ids_T=torch.randint(3, side.model.config.vocab_size, (rows,)),
        positions_T=torch.full((rows,), position, dtype=torch.int32),
        seq_T=torch.arange(rows, dtype=torch.int32),
        slot_mapping_T=slot_mapping_T.int(),
        page_table_SX=table_TX,
        sample_rows_B=torch.arange(rows),
        context_TN=torch.empty((rows, 0), dtype=torch.int64),
    )
    return caches, step


def link_to(spec: SliceSpec, name: str, side: Side, endpoint: placement_pb2.Endpoint) -> Link:
    """Returns a link to the expert process. Raises ConnectionError when its P2P group cannot be connected."""
    config = side.model.config
    if name == "grpc":
        return GrpcLink(endpoint, dispatch_dtype=torch.bfloat16)
    options = P2POptions(
        host="127.0.0.1",
        max_rows=spec.most_rows,
        max_assignments=spec.most_rows * config.moe_topk,
        hidden=config.hidden_size,
        dtype=torch.bfloat16,
        dispatch_dtype=dispatch_dtype_of("", torch.bfloat16),
        device=side.device,
        stats=P2PStats(),
    )
    link = NcclLink(endpoint, options)
    if not link.connect_p2p(CONNECT_S):
        raise ConnectionError("the P2P group could not be connected; the attention side's log has the reason")
    return link


def dispatcher_over(link: Link, spec: SliceSpec, side: Side, overlap: bool) -> MoEDispatcher:
    config = side.model.config
    dispatcher = MoEDispatcher(
        lambda _: link, config, overlap=overlap, device=side.device,
        expert_wait_s=2 * TIMEOUT_S, call_timeout_s=TIMEOUT_S,
    )  # fmt: skip
    everywhere = layer_of([[0]] * config.n_routed_experts)
    dispatcher.apply(placement_pb2.Table(epoch=1, workers=[endpoint_of(spec)], layers=[everywhere] * config.num_layers))
    return dispatcher


def endpoint_of(spec: SliceSpec) -> placement_pb2.Endpoint:
    return placement_pb2.Endpoint(worker_id="expert", boot_id="slice", address=spec.address)


def timed(side: Side, work: Callable[[], object]) -> float:
    """Returns the wall time of a step until the device is done, as an engine sees it."""
    began_s = time.perf_counter()
    work()
    if side.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began_s


@torch.inference_mode()
def measure(spec: SliceSpec, side: Side, link: Link, rows: int) -> dict[str, float]:
    """Returns medians in seconds: a step in each mode, its parts, and the dispatcher's own times per layer."""
    caches, step = caches_and_step(spec, side, rows)
    hidden, config = dispatcher_over(link, spec, side, overlap=True), side.model.config
    waiting, alone = (dispatcher_over(link, spec, side, overlap) for overlap in (False, True))
    h_TD = torch.randn(rows, config.hidden_size, device=side.device, dtype=torch.bfloat16)
    there = step.to(side.device)

    def experts_alone() -> None:
        for layer, gate in enumerate(side.gates):
            y_TD = alone.start(layer, h_TD, gate, there).finish(h_TD)
            assert y_TD.shape == h_TD.shape

    modes: dict[str, Callable[[], object]] = {
        "with overlap": lambda: side.model.forward(step, caches, hidden),
        "without overlap": lambda: side.model.forward(step, caches, waiting),
        "dense path alone": lambda: side.model.forward(step, caches, Dense()),
        "experts' round trips alone": experts_alone,
    }
    for _ in range(spec.warm_up):
        for work in modes.values():
            timed(side, work)
    dispatchers = {"with overlap": hidden, "without overlap": waiting}
    before = {name: dispatcher.stats.total() for name, dispatcher in dispatchers.items()}
    times: dict[str, list[float]] = {name: [] for name in modes}
    for _ in range(spec.steps):
        for name, work in modes.items():
            times[name].append(timed(side, work))
    found = {name: statistics.median(values) for name, values in times.items()}
    for name, dispatcher in dispatchers.items():
        now, then = dispatcher.stats.total(), before[name]
        calls = now.layer_calls - then.layer_calls
        found[f"exposed per layer, {name}"] = (now.exposed_s - then.exposed_s) / calls
        found[f"round trip per layer, {name}"] = (now.round_trip_s - then.round_trip_s) / calls
    return found


def main() -> None:
    configure_logging("attention", "slice")
    spec = SliceSpec.from_arguments()
    if find_device(spec.device).type == "cuda":
        share_one_gpu("attention")
    side = Side.random(spec)
    for name in ("grpc", "nccl"):
        try:
            link = link_to(spec, name, side, endpoint_of(spec))
        except ConnectionError as error:
            send({"link": name, "skipped": str(error)})
            continue
        for rows in spec.rows:
            seconds = measure(spec, side, link, rows)
            if isinstance(link, NcclLink) and not link.p2p_connected:  # calls went over gRPC since then
                send({"link": name, "skipped": f"{rows} rows: the P2P group broke during the measurement"})
                break
            send({"link": name, "rows": rows, "seconds": seconds})
        link.close()


if __name__ == "__main__":
    main()
