"""The Avro form of a contract, for Pub/Sub.

Lists hold no nulls. An enumeration stays a string: a new member must not break old readers before its rule does.
"""

from typing import Any

from schemas.contract import Contract

NAMESPACE = "segue"
_TYPES: dict[str, Any] = {
    "string": "string",
    "bool": "boolean",
    "int32": "int",
    "int64": "long",
    "float32": "float",
    "float64": "double",
    "date": {"type": "int", "logicalType": "date"},
    "timestamp_us_utc": {"type": "long", "logicalType": "timestamp-micros"},
}


def avro_schema(contract: Contract) -> dict[str, Any]:
    """Return the Avro record of a contract, as JSON.

    A nullable column is a union of null, first, and its type, and defaults to null; no other column has a default.
    A vector is an array of floats with its length in the attribute `length`, which Avro readers ignore. A nested record
    is named by its path, `candidate_set__candidates` for example: names must be unique within one schema.
    """
    columns = contract.to_json()["columns"]
    fields = [_field(column, contract.name, contract.describe(column["name"])) for column in columns]
    return {
        "type": "record",
        "name": contract.name,
        "namespace": NAMESPACE,
        "doc": contract.description,
        "fields": fields,
    }


def _field(column: dict[str, Any], parent: str, doc: str = "") -> dict[str, Any]:
    type_ = _type(column["type"], f"{parent}__{column['name']}")
    field: dict[str, Any] = {"name": column["name"], "type": type_}
    if column["nullable"]:
        field = {"name": column["name"], "type": ["null", type_], "default": None}
    return field | ({"doc": doc} if doc else {})


def _type(type_: Any, path: str) -> Any:
    if isinstance(type_, str):
        return _TYPES[type_]
    if "list" in type_:
        return {"type": "array", "items": _type(type_["list"], path)}
    if "vector" in type_:
        return {"type": "array", "items": "float", "length": type_["vector"]}
    return {"type": "record", "name": path, "fields": [_field(inner, path) for inner in type_["struct"]]}
