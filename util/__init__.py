"""Helpers around training: runtime, checkpoints, progress, logs, pages, images."""
