"""A small segmenter for label maps: how it reads pairs, and its network."""
