"""How images are translated: modes of a generator, tiles, styles, and the loop of test.py."""
