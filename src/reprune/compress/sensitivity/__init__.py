"""What each group, block and cut is worth, in full or from few evaluations."""
