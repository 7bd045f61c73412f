"""The decoding step as one compiled pass."""

from phronesis.engine.native.compute import NativeCompute, obstacle

__all__ = ["NativeCompute", "obstacle"]
