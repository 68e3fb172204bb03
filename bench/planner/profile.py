"""The profile that `caracal plan --calibrate` writes, which `services.cli.planning.profiles` reads. In TOML."""

from __future__ import annotations

import json
from collections.abc import Sequence

from bench.planner.points import Measured
from bench.planner.products import Timed, lines
from bench.planner.socket_link import SocketLink
from bench.report import machine
from services.planner.device import Device, Link

NAME = "cpu"


def profile(
    device: Device, link: Link, wire: SocketLink, measured: Sequence[Measured], products: Sequence[Timed]
) -> str:
    """This machine's core and its loopback, with all that was measured for them."""
    here = machine()
    said = [
        f"# Measured by `caracal plan --calibrate` on {here['cpu']}, {here['cores']} cores, {here['time']}.",
        *_device_lines(device),
        *_link_lines(link),
        "[measured]",
        f"half_round_trip_us = {1e6 * wire.latency_s:.4g}",
        f"socket_message_us = {1e6 * wire.message_s:.4g}",
    ]
    for each in measured:
        point = each.point
        name = f"{each.model}, {point.workers} workers, {point.streams} streams, ms"
        said.append(f"{json.dumps(name)} = {1e3 * each.seconds:.5g}")
    return "\n".join([*said, *lines(products, device, "cpu"), ""])


def _device_lines(device: Device) -> list[str]:
    f = device.factors
    return [
        f"[devices.{device.name}]",
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
    ]


def _link_lines(link: Link) -> list[str]:
    return [
        f"[links.{link.name}]",
        f"gb_s = {link.bytes_s / 1e9:.4g}",
        f"latency_us = {1e6 * link.latency_s:.4g}",
        f"message_us = {1e6 * link.message_s:.4g}",
        f"row_us = {1e6 * link.row_s:.4g}",
        'sources = { gb_s = "measured here: a socket, one way", latency_us = "fitted: --calibrate", '
        'message_us = "fitted: --calibrate", row_us = "fitted: --calibrate" }',
    ]
