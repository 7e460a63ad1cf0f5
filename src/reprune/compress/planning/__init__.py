"""What a plan decides: widths and blocks under a budget, from sensitivity, cost and latency."""
