"""The user's own code in worker pods: an image, a module, a ConfigMap with Python files."""

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from marty_msf.core.resources.spec import Model, Rule


class ConfigMapRef(Model):
    """A ConfigMap in the resource's own namespace."""

    name: str = Field(
        min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", description="Name of the ConfigMap."
    )


class Runtime(Model):
    """Your own code in the worker pods."""

    image: str | None = Field(
        None,
        min_length=1,
        max_length=512,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$",
        description="Image of the pods, built on the runtime image; by default the runtime image itself.",
    )
    handlers: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*$",
        description="Python module that registers the functions of python calls, as in shop.sagas.",
    )
    code_config_map_ref: ConfigMapRef | None = Field(
        None, description="ConfigMap whose keys are Python files (handlers.py); an edit of it rolls the pods."
    )

    RULES: ClassVar[Sequence[Rule]] = (
        Rule(
            "!has(self.codeConfigMapRef) || has(self.handlers)",
            "codeConfigMapRef holds code that nothing imports: set handlers to the module to import",
            field=".codeConfigMapRef",
        ),
    )
