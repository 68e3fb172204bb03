"""Runs many schedules, on one cluster of each kind after the other, with controls, and says what was left behind."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from faults.asking import Question
from faults.cluster import FaultyCluster, wait_for
from faults.decoys import is_taken_in
from faults.footprint import REST_S, Footprint, footprints, left_behind, running
from faults.outcome import Outcome
from faults.run import Mix, Unmendable, calm_traffic, run_schedule, said
from faults.variants import Variant, variant_of

CONTROLLED = 2  # of the questions, which are asked meanwhile


class Suite:
    """`done` is called after each schedule; with `until_s`, of the monotonic clock, none begins later."""

    def __init__(
        self,
        model: Path,
        questions: Sequence[Question],
        outcome: Outcome,
        mix: Mix,
        done: Callable[[], None],
        until_s: float,
    ) -> None:
        self._model, self._questions, self._mix = model, questions, mix
        self.outcome, self._done, self._until_s = outcome, done, until_s
        self._controlled: set[str] = set()  # kinds of clusters

    def run(self, seeds: Sequence[int]) -> None:
        """A schedule for each seed, on a cluster of the seed's kind."""
        left = list(seeds)
        while left and time.monotonic() < self._until_s:
            variant = variant_of(left[0])
            block = next((at for at, seed in enumerate(left) if variant_of(seed) != variant), len(left))
            left = left[self._run_block(variant, left[:block]) :]

    def _run_block(self, variant: Variant, seeds: Sequence[int]) -> int:
        """Runs schedules on one cluster; returns how many: not all of them if it can be mended no more."""
        played = 0
        with (
            tempfile.TemporaryDirectory(prefix="caracal-faults-") as folder,
            FaultyCluster(self._model, Path(folder), variant) as cluster,
        ):
            calm_traffic(cluster, self._questions, self.outcome)
            wait_for(lambda: not running(cluster), REST_S)
            before = footprints(cluster)
            self._control(cluster)
            also = tuple(kind for kind in variant.also if kind in self._mix.kinds)
            for seed in seeds:
                if time.monotonic() >= self._until_s:
                    break
                played += 1
                try:
                    run_schedule(cluster, self._questions, seed, self.outcome, replace(self._mix, also=also))
                except Unmendable as error:
                    self.outcome.verdicts[f"stuck: it cannot be mended: {error} (seed {seed})"] += 1
                    return played
                finally:
                    self._done()
            self._look_back(cluster, before, variant)
        return played

    def _control(self, cluster: FaultyCluster) -> None:
        """Each kind's control, once for each kind of cluster."""
        if cluster.variant.name in self._controlled:
            return
        self._controlled.add(cluster.variant.name)
        for kind in self._mix.kinds:
            try:
                why = is_taken_in(cluster, self._questions[:CONTROLLED], kind)
            except Exception as error:  # noqa: BLE001  one control, of many
                why = f"the control of {kind} fails: {said(error)}"
            if why:
                self.outcome.controls.append(f"{why} ({cluster.variant.name})")

    def _look_back(self, cluster: FaultyCluster, before: Mapping[str, Footprint], variant: Variant) -> None:
        try:
            found = left_behind(cluster, before)
        except Exception as error:  # noqa: BLE001  a process does not answer
            found = [said(error)]
        self.outcome.left_behind += [f"{one} ({variant.name})" for one in found]
        self._done()
