"""The simulator beside a real cluster, and how fast it is."""
