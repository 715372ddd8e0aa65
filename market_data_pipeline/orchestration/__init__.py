"""Ways in for users: the Dag layer, re-exported in one place."""
