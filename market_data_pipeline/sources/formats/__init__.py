"""Readers of recorded files, one per format: chunks of rows with the place of each."""
