"""Lessons: what a step's attempts become before the weights learn from them, where it is not credit for their tokens."""
