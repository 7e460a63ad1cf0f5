"""The task that Reprune compresses."""
