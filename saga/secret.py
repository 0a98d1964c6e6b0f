"""A secret that one reader takes out: after that, no settings object holds it any more."""

from typing import Any, NoReturn

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

_STARS = "**********"


class Secret:
    """Text that shows as stars, is never copied, and is gone from here once it was taken."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value: str | None = value

    def peek(self) -> str:
        """The value, to be looked at and not kept. Raises RuntimeError once it was taken."""
        if self._value is None:
            raise RuntimeError("the secret was taken out already")
        return self._value

    def take(self) -> str:
        """The value, from now on the caller's alone. Raises RuntimeError the second time."""
        value, self._value = self.peek(), None
        return value

    def __repr__(self) -> str:
        return f"Secret('{_STARS}')"

    def __str__(self) -> str:
        return _STARS

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is never copied")

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        made = core_schema.no_info_after_validator_function(cls, core_schema.str_schema())
        return core_schema.union_schema(
            [core_schema.is_instance_schema(cls), made],
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )
