"""The runtime: fused subgraphs, event-time progress, tasks, and a whole Dag in one process."""
