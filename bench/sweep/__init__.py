"""What cost grows with: streams, context, layers, experts and expert workers, one at a time."""
