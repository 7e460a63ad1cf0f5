"""Measured error rates and power of the judge: a recorded trace, a model of it, and simulations."""
