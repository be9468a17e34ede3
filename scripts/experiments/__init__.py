"""Grids of runs: what to run, how it is run, and the table and page that come of it."""
