"""Models of JSON objects that reject fields they do not know, by name."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from services.router.gateway.known_fields import FieldTable, check_known


class Closed(BaseModel):
    """An object, or a body, of which every field is honoured or in `field_table`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    field_table: ClassVar[FieldTable] = FieldTable()

    @model_validator(mode="before")
    @classmethod
    def _check_known(cls, value: Any) -> Any:
        if isinstance(value, dict):
            check_known(value, {field.alias or name for name, field in cls.model_fields.items()}, cls.field_table)
        return value
