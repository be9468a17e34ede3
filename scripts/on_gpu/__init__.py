"""Parts of scripts/gpu_check.py: its stages, the clock that they run by, and what is written after each."""
