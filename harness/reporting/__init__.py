"""Draws tables and verdicts; computes nothing."""
