"""Jobs over processes (coordinator, workers and, unless an address is given, a server) and what ``mdp`` does besides."""
