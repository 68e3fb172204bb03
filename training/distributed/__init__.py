"""Data and expert parallelism whose bits do not depend on the number of ranks."""
