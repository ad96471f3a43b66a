"""Conversations with a model: replies, sources, exam questions, transcripts, and the terminal they are held in."""
