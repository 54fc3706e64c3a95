"""Training: the loop, its schedule, checkpoints, the run log."""
