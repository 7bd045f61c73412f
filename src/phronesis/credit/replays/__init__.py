"""Credit from playing on: fresh continuations say what a turn was worth."""
