"""What the planner says beside what is published and what this machine measured; docs/planner.md is made here."""
