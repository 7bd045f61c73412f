"""The checks behind `phronesis.train.lint`, by what they look at."""
