"""The declared graph, the fluent builder, and the compiler that makes a plan of it."""
