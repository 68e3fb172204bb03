"""Removes models that nobody reads any more from a claim: folders beside the one that is served.

A folder goes in two steps. It is hidden first: whoever waits for it, as every pod does before it begins, does not find
it complete. Then pods are looked at once more, and only what none of them names is removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import structlog

from services.weights.folder import COMPLETE, LOCK, Folder, writing

log = structlog.get_logger(__name__)

HIDDEN = "leaving.json"  # what says that a folder is complete, while it is not to be found so
USED = "used"  # its time is when the folder was served last


def prune(folder: Path, keep: int, pods: Callable[[], str]) -> list[str]:
    """Removes the folders beside this one but for the `keep - 1` that were served last; returns their names.

    `pods`: the specs of all pods that may mount the claim, as one text; a folder that is named in it stays. So do those
    into which somebody fetches, and those that `caracal fetch` has not made. Raises FetchError, and what `pods` raises.
    """
    own = Folder(folder)
    own.make()
    with writing(folder):
        (own.own / USED).touch()
    others = _others(folder)
    for other in others:
        _show(other)  # whoever hid it was killed
    old = sorted(others, key=_used_at, reverse=True)[keep - 1 :]
    text = pods()
    with ExitStack() as locks:
        leaving = [one for one in old if one.path.name not in text and locks.enter_context(one.locked_if_free())]
        try:
            for one in leaving:
                _hide(one)
            text = pods() if leaving else ""
        except BaseException:
            for one in leaving:
                _show(one)
            raise
        return _remove(leaving, text)


def _remove(leaving: Sequence[Folder], text: str) -> list[str]:
    removed = []
    for one in leaving:
        if one.path.name in text:
            log.info("a pod has begun that reads it: it stays", folder=str(one.path))
            _show(one)
            continue
        with writing(one.path):
            shutil.rmtree(one.path)
        log.info("no pod reads it any more: removed", folder=str(one.path))
        removed.append(one.path.name)
    return removed


def _others(folder: Path) -> list[Folder]:
    with writing(folder.parent):
        found = [Folder(path) for path in sorted(folder.parent.iterdir()) if path != folder and not path.is_symlink()]
        return [one for one in found if (one.own / LOCK).is_file()]


def _used_at(folder: Folder) -> float:
    """When it was served last, or made complete; 0 for one that nobody has finished."""
    for name in (USED, COMPLETE):
        try:
            return (folder.own / name).stat().st_mtime
        except OSError:
            continue
    return 0.0


def _hide(folder: Folder) -> None:
    if (folder.own / COMPLETE).exists():
        with writing(folder.path):
            (folder.own / COMPLETE).replace(folder.own / HIDDEN)


def _show(folder: Folder) -> None:
    """Takes `_hide` back. What has been removed in part is found incomplete, by the sizes of its files."""
    if (folder.own / HIDDEN).exists():
        with writing(folder.path):
            (folder.own / HIDDEN).replace(folder.own / COMPLETE)
