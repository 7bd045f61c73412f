"""vLLM servers behind the policy contract: started or attached to, fed with new weights, never trusted blindly."""
