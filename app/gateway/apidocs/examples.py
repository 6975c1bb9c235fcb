"""Examples of schemas, for the OpenAPI document."""

from typing import Any

from marshmallow import Schema, fields


def schema_example(schema: Schema) -> dict[str, Any]:
    """An example of a schema, made of the examples of its fields; a field without one is left out."""
    examples = {field.data_key or name: _field_example(field) for name, field in schema.fields.items()}
    return {name: example for name, example in examples.items() if example is not ...}


def _field_example(field: fields.Field[Any]) -> Any:
    if "example" in field.metadata:
        return field.metadata["example"]
    if isinstance(field, fields.Nested):
        return schema_example(field.schema)
    if isinstance(field, fields.List):
        return [_field_example(field.inner)]
    return ...
