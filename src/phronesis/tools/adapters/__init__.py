"""Tools of other makes; what they need is optional."""
