"""The three kinds as pydantic models: the one source of the CRDs, the operator's validation and the workers' configuration."""
