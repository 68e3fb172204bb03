"""Which expert worker has which experts: policy, leader, two-phase changes, shortages."""
