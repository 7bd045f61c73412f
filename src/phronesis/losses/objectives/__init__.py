"""Token objectives of the policy gradient."""
