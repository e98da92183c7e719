"""vLLM as the engine: in process or on servers."""
