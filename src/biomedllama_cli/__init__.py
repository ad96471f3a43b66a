"""Adapt open language models to biomedicine, reproducibly, from one command line."""

__version__ = "0.1.0"
