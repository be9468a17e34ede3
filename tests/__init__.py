"""The test suite; `bash scripts/test.sh` runs it."""
