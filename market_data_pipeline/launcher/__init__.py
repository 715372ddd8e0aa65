"""``mdp run``: coordinator, workers and (unless an address is given) a server as child processes, watched until the end."""
