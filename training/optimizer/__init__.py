"""The optimizers and the schedule of their rates."""
