"""A log of requests and their answers, bit for bit: what `--record` writes and `caracal verify` replays."""
