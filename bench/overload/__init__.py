"""What a cluster does beyond its capacity: `python -m bench.overload`."""
