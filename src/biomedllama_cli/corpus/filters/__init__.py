"""Filters on the text of a document: its language and its quality."""
