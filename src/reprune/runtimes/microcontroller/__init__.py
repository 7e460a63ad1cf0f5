"""Microcontrollers: a model as one array in flash, and C99 code without malloc that runs it from there."""
