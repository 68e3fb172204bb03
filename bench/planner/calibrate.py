"""Measures this machine for `caracal plan --calibrate`: peaks, sockets, and factors fitted to small clusters."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import roofline
from bench.planner.points import CALIBRATION, Measured, Model, measure, short
from bench.planner.socket_link import SocketLink
from bench.planner.socket_link import measure as measure_socket
from bench.report import machine
from services.planner.device import Device, Link
from services.planner.fitting import fit, with_factors
from services.planner.one_machine import step

ROUNDS = 3
NAME = "cpu"


def calibrate(path: Path, *, smoke: bool = False) -> None:
    """Writes the profile to `path`. About two minutes; with `smoke` seconds, and figures that mean nothing."""
    with tempfile.TemporaryDirectory(prefix="caracal-calibrate-") as folder:
        peaks = roofline.measure(roofline.SMOKE_MIB if smoke else roofline.MIB, 1 if smoke else roofline.ROUNDS)
        wire = measure_socket(50, 2) if smoke else measure_socket()
        models: Sequence[Model] = short(CALIBRATION) if smoke else CALIBRATION
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
    path.write_text(profile(device, link, wire, measured), encoding="utf-8")
    print(f"wrote {path}")
    for each in measured:
        said = step(each.point, device, link).seconds
        name = f"{each.model}, {each.point.workers} expert worker(s), {each.point.streams} streams"
        print(
            f"  {name}: {1e3 * each.seconds:.3g} ms, fitted {1e3 * said:.3g} ms "
            f"({100 * (said / each.seconds - 1):+.0f} %)"
        )


def profile(device: Device, link: Link, wire: SocketLink, measured: Sequence[Measured]) -> str:
    """The profile as TOML, which `services.cli.planning.profiles` reads."""
    f, here = device.factors, machine()
    lines = [
        f"# Measured by `caracal plan --calibrate` on {here['cpu']}, {here['cores']} cores, {here['time']}.",
        f"[devices.{NAME}]",
        f"memory_gb = {device.memory_bytes / 1e9:.4g}",
        f"memory_gb_s = {device.memory_bytes_s / 1e9:.4g}",
        f"tflops = {{ bf16 = {device.flops['bf16'] / 1e12:.4g} }}",
        "price_h = 0.05",
        'sources = { memory_gb_s = "measured here: one thread", tflops = "measured here: one thread", '
        'price_h = "assumed" }',
        f"factors = "
        f"{{ efficiency = {f.efficiency:.4g}, overlap_loss = {f.overlap_loss:.4g}, op_us = {1e6 * f.op_s:.4g}, "
        f"step_us = {1e6 * f.step_s:.4g}, row_us = {1e6 * f.row_s:.4g}, touch_us = {1e6 * f.touch_s:.4g}, "
        'fitted_on = "--calibrate" }',
        "[links.loopback]",
        f"gb_s = {link.bytes_s / 1e9:.4g}",
        f"latency_us = {1e6 * link.latency_s:.4g}",
        f"message_us = {1e6 * link.message_s:.4g}",
        f"row_us = {1e6 * link.row_s:.4g}",
        'sources = { gb_s = "measured here: a socket", latency_us = "fitted: --calibrate", '
        'message_us = "measured here: a socket" }',
        "[measured]",
        f"half_round_trip_us = {1e6 * wire.latency_s:.4g}",
    ]
    for each in measured:
        point = each.point
        lines.append(
            f"{json.dumps(f'{each.model}, {point.workers} workers, {point.streams} streams, ms')} = "
            f"{1e3 * each.seconds:.5g}"
        )
    return "\n".join([*lines, ""])
