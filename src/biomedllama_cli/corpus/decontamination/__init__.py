"""Evaluation questions in training text: find them, drop them, and say what was found."""
