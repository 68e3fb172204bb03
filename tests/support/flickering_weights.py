"""`python -m support.flickering_weights`: an expert worker in whose memory bits of weights flip, back and forth."""

from __future__ import annotations

import gc
import threading
import time

from support.flipping_experts import flip

from services.expert_worker.__main__ import main
from services.expert_worker.experts import Experts

WRONG_S, RIGHT_S = 0.02, 0.1


def flicker() -> None:
    while True:
        for experts in [one for one in gc.get_objects() if type(one) is Experts]:
            weights = [region.tensors[-1] for region in list(experts.regions.values())]
            for seconds in (WRONG_S, RIGHT_S):
                for each in weights:
                    flip(each)
                time.sleep(seconds)
        time.sleep(WRONG_S)


if __name__ == "__main__":
    threading.Thread(target=flicker, daemon=True).start()
    main()
