"""The expert worker: FFN experts and nothing else."""
