"""The straight-line story of each command."""
