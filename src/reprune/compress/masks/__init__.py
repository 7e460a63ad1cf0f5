"""Weights that are masked instead of cut: chosen, stored, held and grown, in patterns or none."""
