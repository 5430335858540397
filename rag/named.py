"""Settings that YAML calls by a name: what stages and backends have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from rag.registry import Group


class Named(BaseModel):
    """A frozen model whose classes are registered by name, below a base that sets ``group``.

    ``class Mine(Base, name="mine")`` makes the class known by the name that YAML uses; without a
    name it is a base for others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
    group: ClassVar[Group]
    kind: ClassVar[str] = ""

    def __init_subclass__(cls, *, name: str = "", **keywords: Any) -> None:
        """Take the ``name``, which pydantic's own hook would refuse."""
        super().__init_subclass__(**keywords)

    @classmethod
    def __pydantic_init_subclass__(cls, *, name: str = "", **keywords: Any) -> None:
        """Register the class once pydantic has built it.

        Raises:
            InvalidInput: another class of the group has the name.
        """
        from rag import registry

        super().__pydantic_init_subclass__(**keywords)
        cls.kind = name
        if name:
            registry.define(cls.group, name, cls)
