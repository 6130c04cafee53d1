"""CustomResourceDefinitions from the pydantic models: pure functions from models to documents; dev.generate writes them."""
