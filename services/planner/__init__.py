"""What a deployment would do and cost, by arithmetic: no torch, no I/O, no clock. Profiles are read elsewhere."""
