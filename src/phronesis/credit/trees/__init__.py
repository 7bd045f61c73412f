"""Credit in trees: attempts that share a beginning."""
