"""Scores, intervals and baselines."""
