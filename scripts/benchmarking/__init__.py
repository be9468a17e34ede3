"""Parts of scripts/benchmark.py: what is compared, how it is checked, timed, counted and reported."""
