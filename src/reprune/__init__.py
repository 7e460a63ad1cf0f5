"""Re-compresses every retrained model, and refuses to promote one that got worse or slower."""

__version__ = "0.1.0"
