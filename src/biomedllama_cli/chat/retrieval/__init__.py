"""Passages of a corpus that fit a question."""
