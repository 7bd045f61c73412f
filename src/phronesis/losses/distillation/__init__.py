"""Learning from text or from a teacher: supervised losses and distillation."""
