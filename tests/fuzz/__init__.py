"""Random command lines, which must all end without a traceback; `python -m tests.fuzz` runs 2,000 of them."""
