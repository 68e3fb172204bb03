"""`caracal plan`: what the planner's arithmetic needs from files, and how its answers are shown."""
