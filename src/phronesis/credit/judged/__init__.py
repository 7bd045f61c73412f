"""Credit from numbers somebody gives: the policy itself, a teacher, a judge."""
