"""What each layer takes at each width on a target, measured there, and a whole model's latency from it."""
