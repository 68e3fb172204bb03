"""What drafting gains, with drafts that are right at a set rate."""
