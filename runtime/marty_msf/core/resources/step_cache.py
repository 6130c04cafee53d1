"""Caches of step results: what a step says of its own, and where all of a saga's are kept."""

from pydantic import Field

from marty_msf.core.resources.spec import Expression, Model, SecretKeyRef


class CachedResult(Model):
    """Answers of a step that are used again instead of another call."""

    ttl_seconds: int = Field(ge=1, le=2_592_000, description="For how long an answer is used.")
    key: Expression = Field(
        description="CEL over the context: what the answer depends on. When a name in it is missing the step is called."
    )


class RedisCache(Model):
    """A Redis (or Valkey) that all pods share."""

    url_secret_ref: SecretKeyRef = Field(description="Secret key with the URL: redis://…, or rediss://… for TLS.")


class StepCache(Model):
    """Where results of steps with `cache` are kept."""

    max_bytes: int = Field(
        67_108_864, ge=65_536, le=17_179_869_184, description="In the memory of each pod; the least recently used go."
    )
    redis: RedisCache | None = Field(
        None, description="Kept there as well, for all pods; while it fails, steps are called."
    )
