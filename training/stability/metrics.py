"""The monitors of a run as Prometheus metrics, and as a table on a terminal."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge
from rich.table import Table

from training.stability.suite import Readings
from training.stage import StepReport
from training.trunk import TrunkReport

_GAUGES = {
    "step": "Steps done",
    "loss": "Loss of the last step",
    "rate": "Factor of the learning rates",
    "hidden_norm": "Norm of the last layer's output, mean over tokens",
    "hidden_max": "Largest activation of the last layer's output",
    "gradient_rms": "RMS of the gradient of the parameters that Adam trains",
    "gradient_rms_least": "The same of the parameter where it is least",
}
_BY_LAYER = {
    "ffn_experts": "FFN experts per token, mean of the last step's tokens",
    "ffn_experts_std": "Their standard deviation over tokens",
    "busiest_expert": "Tokens of the most used FFN expert, relative to an even split",
    "gradient_ratio": "Router-gradient balance R_g: balance loss over language model",
    "balance_weight": "Weight of the balance loss after adaption",
    "balance_loss": "Device-level balance loss without its weight; 1 where all groups have their share",
    "router_cosine": "Mean cosine between two rows of the router",
}


class TrainingMetrics:
    """Takes the reports of a run's steps. `show` has the form that a stage's run wants."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.gauges = {
            name: Gauge(f"caracal_training_{name}", says, registry=registry) for name, says in _GAUGES.items()
        }
        self.by_layer = {
            name: Gauge(f"caracal_training_{name}", says, ["layer"], registry=registry)
            for name, says in _BY_LAYER.items()
        }
        self.spikes = Counter("caracal_training_loss_spikes", "Spikes of the loss", registry=registry)
        self.spike_steps = Counter("caracal_training_loss_spike_steps", "Steps inside spikes", registry=registry)
        self.counted = (0, 0)

    def show(self, report: StepReport) -> Table | None:
        """Sets the metrics from a step's report. Returns a table where the step has readings."""
        values = {"step": float(report.step), "loss": report.loss, "rate": report.rate}
        if not isinstance(report, TrunkReport):
            self._set(values, {})
            return None
        rows = {"ffn_experts": report.mean, "ffn_experts_std": report.std, "busiest_expert": report.busiest}
        readings = report.readings
        if readings is not None:
            values |= {name: getattr(readings, name) for name in _GAUGES if hasattr(readings, name)}
            rows |= {name: getattr(readings, name) for name in _BY_LAYER if hasattr(readings, name)}
            self._count(readings)
        self._set(values, rows)
        return None if readings is None else _table(values, rows, readings)

    def _set(self, values: dict[str, float], rows: dict[str, list[float]]) -> None:
        for name, value in values.items():
            self.gauges[name].set(value)
        for name, layers in rows.items():
            for layer, value in enumerate(layers):
                self.by_layer[name].labels(str(layer)).set(value)

    def _count(self, readings: Readings) -> None:
        spikes, steps = self.counted
        self.counted = readings.spikes, readings.spike_steps
        self.spikes.inc(readings.spikes - spikes)
        self.spike_steps.inc(readings.spike_steps - steps)


def _table(values: dict[str, float], rows: dict[str, list[float]], readings: Readings) -> Table:
    table = Table("", *(f"layer {layer}" for layer in range(len(rows["ffn_experts"]))), "whole model")
    for name, layers in rows.items():
        if layers:
            table.add_row(name.replace("_", " "), *(f"{value:.3g}" for value in layers), "")
    blank = [""] * len(rows["ffn_experts"])
    for name, value in values.items():
        table.add_row(name.replace("_", " "), *blank, f"{value:.4g}")
    table.add_row("spikes; steps in them", *blank, f"{readings.spikes}; {readings.spike_steps}")
    return table
