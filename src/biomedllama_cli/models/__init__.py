"""Loading, tokenizers, attention and loss."""
