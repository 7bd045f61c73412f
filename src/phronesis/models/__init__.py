"""Decoders: compact modules, tiny-model factory, Hugging Face checkpoints."""
