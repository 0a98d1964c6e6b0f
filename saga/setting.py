"""How a setting is declared: its line in the README, and the example of its error."""

from typing import Any

from pydantic import Field
from pydantic_settings import SettingsConfigDict

CONFIG = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)


def setting(default: Any, text: str, example: str, **limits: Any) -> Any:
    """A setting with its line in the README and the example of its error."""
    if isinstance(default, float):
        limits["allow_inf_nan"] = False
    return Field(default, description=text, examples=[example], **limits)
