"""Channels: bounded, ordered, one-way paths between two nodes."""
