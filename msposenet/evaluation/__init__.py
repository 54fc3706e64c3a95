"""Scores as the official programs give them, object keypoint similarity, suppression of double poses, result files."""

from __future__ import annotations
