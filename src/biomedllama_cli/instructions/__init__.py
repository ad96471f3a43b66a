"""Instruction data: examples, mixtures of sources, target masks, packing."""
