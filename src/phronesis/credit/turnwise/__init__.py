"""Credit per turn from the episode alone: returns, states met again, shaping."""
