"""How is a page made? The parts of every HTML page, its charts, and the gallery of test.py."""
