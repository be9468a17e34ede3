"""What scripts/evaluate.py measures, and how it reports it."""
