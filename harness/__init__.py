"""Trains one small network by every way of getting gradients, proves each right, and measures how fast it is."""

__version__ = "0.1.0"
