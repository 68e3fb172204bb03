"""Tasks that several agents make: scenario, tools, user, environment, checker; played, measured, learned from."""
