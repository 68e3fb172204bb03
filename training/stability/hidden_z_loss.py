"""The hidden z-loss (report, Eq. 10): keeps the outputs of the last layer, before the final norm, small.

Legend: R tokens without padding, D hidden.
"""

from __future__ import annotations

from torch import Tensor


def hidden_z_loss(state_RD: Tensor) -> Tensor:
    """Returns the mean over tokens of (log sum exp |z|)^2, without its weight λ."""
    return state_RD.float().abs().logsumexp(-1).square().mean()
