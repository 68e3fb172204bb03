"""`caracal verify`: replays a record and compares every bit."""
