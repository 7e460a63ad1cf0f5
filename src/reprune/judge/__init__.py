"""Decides, and says why: pure functions of evidence and policy. No clock, no I/O, no torch."""
