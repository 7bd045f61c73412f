"""vLLM servers behind the policy contract: started or attached to, fed with new weights, never trusted blindly."""

from phronesis.engine.vllm.config import VLLMConfig
from phronesis.engine.vllm.engine import VLLMEngine
from phronesis.engine.vllm.fleet import Fleet

__all__ = ["Fleet", "VLLMConfig", "VLLMEngine"]
