"""Models of JSON objects that reject fields they do not know, by name."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

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

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        close(handler.resolve_ref_schema(schema), cls.field_table)
        return schema


def close(schema: dict[str, Any], table: FieldTable) -> None:
    """Adds the fields of a table to an object's JSON schema, each with the values that it may have, and no others."""
    properties = schema.setdefault("properties", {})
    allowed: dict[str, Any] = {name: {"description": "changes no answer"} for name in sorted(table.harmless)}
    for name, values in table.only_as.items():
        allowed[name] = {"enum": [*values, None]}
    for name, why in table.unsupported.items():
        allowed[name] = {"enum": [*table.off.get(name, ()), None], "description": f"not supported: {why}"}
    schema["properties"] = allowed | properties
    schema["additionalProperties"] = False
