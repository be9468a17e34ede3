"""The page of scripts/compare.py."""
