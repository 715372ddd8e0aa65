"""A harness that runs jobs with real processes and breaks them on a seeded schedule; ``scripts/chaos`` is its command."""
