"""Sources: where items enter a job, with a position from which they can go on."""
