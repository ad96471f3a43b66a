"""Readers of instruction data: one format each, every record an example or named as what it lacks."""
