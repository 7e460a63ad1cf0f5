"""The built-in criteria: what makes a channel matter. See `compress.importance` for their contract."""
