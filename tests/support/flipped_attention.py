"""`python -m support.flipped_attention`: an attention worker in whose memory a bit flips once FLIP_WHEN is there.

Then that file holds the name of what the bit belongs to.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path

from support.flipping_experts import flip

from services.attention_worker.__main__ import main
from services.attention_worker.worker import AttentionWorker


def flip_once(when: Path) -> None:
    while not when.exists():
        time.sleep(0.01)
    (worker,) = (one for one in gc.get_objects() if type(one) is AttentionWorker)
    region = worker._regions[0, 2]
    flip(region.tensors[0])
    when.write_text(region.name)


if __name__ == "__main__":
    threading.Thread(target=flip_once, args=[Path(os.environ["FLIP_WHEN"])], daemon=True).start()
    main()
