"""The worker: holds partitions and runs their tasks."""
