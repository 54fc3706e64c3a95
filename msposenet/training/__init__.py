"""Training: the loop, its schedule, checkpoints, many machines, the run log."""
