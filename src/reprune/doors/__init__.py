"""Thin doors onto the steps: the command line, dvc.yaml, init, update, promote."""
