"""A cluster in virtual time: the real policies, with the planner's costs in place of devices."""
