"""Files that worker processes open: each serves one catalogue."""
