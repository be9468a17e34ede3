"""What does a run show? Console, text files, the training page and three displays, behind one visualizer."""
