"""Says what a machine can do for a training and what would fail on it."""
