"""A learner held by several processes through torch.distributed."""
