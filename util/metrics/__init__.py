"""How good is it? Measures of translated pictures."""
