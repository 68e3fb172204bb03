"""Measures this machine for `caracal plan --calibrate`: peaks, products, sockets, and factors fitted to small clusters.

Where torch sees a GPU that is measured as well.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import roofline
from bench.planner import gpu
from bench.planner.points import CALIBRATION, Model, measure, short
from bench.planner.products import Timed, distinct, on_one_core, products_of, usual_share
from bench.planner.profile import NAME, profile
from bench.planner.socket_link import measure as measure_socket
from services.cli.planning.profiles import device as known_device
from services.planner.device import Device, Link
from services.planner.fitting import fit, with_factors
from services.planner.one_machine import step

ROUNDS = 3
LIKE = "h800"  # the device on which the factor of overlap was fitted


def calibrate(path: Path, *, smoke: bool = False) -> None:
    """Writes the profile to `path`. About two minutes; with `smoke` seconds, and figures that mean nothing."""
    models: Sequence[Model] = short(CALIBRATION) if smoke else CALIBRATION
    with tempfile.TemporaryDirectory(prefix="caracal-calibrate-") as folder:
        peaks = roofline.measure(roofline.SMOKE_MIB if smoke else roofline.MIB, 1 if smoke else roofline.ROUNDS)
        wire = measure_socket(50, 2) if smoke else measure_socket()
        products = products_here(models, smoke=smoke)
        measured = measure(models, Path(folder), 1 if smoke else ROUNDS)
    one = peaks["one"]
    device = Device(
        name=NAME,
        memory_bytes=float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        memory_bytes_s=max(one["plain_bytes_s"], one["huge_bytes_s"]),
        flops={"bf16": one["flops_s"]},
    )
    link = Link(name="loopback", bytes_s=wire.bytes_s, latency_s=wire.latency_s, message_s=wire.message_s)
    values = fit([(each.point, each.seconds) for each in measured], device, link)
    device, link = with_factors(device, link, values)
    text = profile(device, link, wire, measured, products)
    if gpu.available():
        text += "\n".join([*gpu.profile_lines(gpu.measure(), known_device(LIKE)), ""])
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}")
    for each in measured:
        said = step(each.point, device, link).seconds
        name = f"{each.model}, {each.point.workers} expert worker(s), {each.point.streams} streams"
        print(
            f"  {name}: {1e3 * each.seconds:.3g} ms, fitted {1e3 * said:.3g} ms "
            f"({100 * (said / each.seconds - 1):+.0f} %)"
        )
    print(
        f"  products of these sizes: {100 * usual_share(products, device):.0f} % of the roofline of one core (median); "
        f"the fitted efficiency of whole steps is {100 * device.factors.efficiency:.0f} %"
    )


def products_here(models: Sequence[Model], *, smoke: bool = False) -> list[Timed]:
    """Products of these models' sizes on one core; with `smoke` one row of the first ones."""
    sizes = distinct(product for model in models for product in products_of(model.checkpoint().config))
    return on_one_core(sizes[:2], (1,)) if smoke else on_one_core(sizes)
