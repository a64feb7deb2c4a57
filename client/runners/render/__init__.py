"""How things look: words for times and sizes, lines that fit their width, tables for a terminal and for a pipe."""
