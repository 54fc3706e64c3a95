"""The learning rate as a pure function of the step: what a resumed run uses cannot differ."""

from __future__ import annotations

from msposenet.config import TrainConfig


def learning_rate(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Rate of step `step` (counted from 0 over the whole run): linear warm-up, then drops after given epochs."""
    epochs_done = step // steps_per_epoch
    rate = config.base_lr * config.lr_factor ** sum(epochs_done >= drop for drop in config.lr_drops)
    if step < config.warmup_steps:
        rate *= (step + 1) / config.warmup_steps
    return rate
