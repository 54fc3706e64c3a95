"""Deployable graphs, each with its parity check."""
