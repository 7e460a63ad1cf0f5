"""What can be cut of a model: coupled channels, heads and blocks, each proven; and the slicing."""
