"""How the attempts of a group come about: one by one, or branching from one another."""
