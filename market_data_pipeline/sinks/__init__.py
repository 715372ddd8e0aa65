"""Sinks: where results leave a job."""
