"""Between records and the outside's forms."""
