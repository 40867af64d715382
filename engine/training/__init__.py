"""Training: configuration, set-up, step, state and checkpoints of a run."""
