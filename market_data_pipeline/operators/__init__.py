"""Operators: sans-I/O, synchronous, checkpointed transformations of frames."""
