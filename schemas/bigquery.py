"""The BigQuery form of a contract.

BigQuery has one integer and one float, so `int32` becomes INT64 and `float32` FLOAT64; every value survives.
A BigQuery array is never null: a null list is stored as an empty array and read back as one. Where the two differ in
meaning (null availability is everywhere) the description of the column says so, and a reader must take empty for null.
Load Parquet with `enable_list_inference`, else a list arrives as a record named `list`.
"""

import json
from typing import Any

from schemas.contract import Contract

_TYPES = {
    "string": "STRING",
    "bool": "BOOL",
    "int32": "INT64",
    "int64": "INT64",
    "float32": "FLOAT64",
    "float64": "FLOAT64",
    "date": "DATE",
    "timestamp_us_utc": "TIMESTAMP",
}
_MAX_CLUSTERING_COLUMNS = 4  # BigQuery's own limit
_NULL_LIST = "Null is stored as an empty array."


def bigquery_schema(contract: Contract) -> list[dict[str, Any]]:
    """Return the fields of a contract as BigQuery's REST API spells a table schema.

    Raises:
      ValueError: a list of lists, which BigQuery cannot store.
    """
    return [
        _field(column, f"{contract.name}.{column['name']}", _description(contract, column["name"]))
        for column in contract.to_json()["columns"]
    ]


def bigquery_ddl(contract: Contract, table: str) -> str:
    """Return the statement that creates a table, `project.dataset.table`, where it does not exist.

    It is partitioned by the first date column, if there is one, and clustered by the key. Its labels carry version and
    fingerprint of the contract.
    """
    fields = bigquery_schema(contract)
    partition = next((f["name"] for f in fields if f["type"] == "DATE"), None)
    cluster = [name for name in contract.key if name != partition][:_MAX_CLUSTERING_COLUMNS]
    columns = ",\n  ".join(_sql_column(field) for field in fields)
    lines = [f"CREATE TABLE IF NOT EXISTS `{table}` (\n  {columns}\n)"]
    if partition:
        lines.append(f"PARTITION BY `{partition}`")
    if cluster:
        lines.append(f"CLUSTER BY {', '.join(f'`{name}`' for name in cluster)}")
    labels = f'[("version", "{contract.version.replace(".", "-")}"), ("fingerprint", "{contract.fingerprint}")]'
    lines.append(f"OPTIONS (description={_sql_string(contract.description)}, labels={labels})")
    return "\n".join(lines)


def _description(contract: Contract, name: str) -> str:
    unit = contract.unit(name)
    return contract.describe(name) + (f" Unit: {unit}." if unit else "")


def _field(column: dict[str, Any], where: str, description: str = "") -> dict[str, Any]:
    """Build one field; `where` names it in errors."""
    type_, mode = column["type"], "NULLABLE" if column["nullable"] else "REQUIRED"
    if isinstance(type_, dict) and "struct" not in type_:
        mode = "REPEATED"
        description = f"{description} {_NULL_LIST}".strip() if column["nullable"] else description
        type_ = type_.get("list", "float32")
    field: dict[str, Any] = {"name": column["name"], "mode": mode}
    if description:
        field["description"] = description
    if isinstance(type_, str):
        return field | {"type": _TYPES[type_]}
    if "struct" not in type_:
        raise ValueError(f"{where}: BigQuery stores no list of lists; put the inner list into a struct of one field")
    return field | {
        "type": "RECORD",
        "fields": [_field(inner, f"{where}.{inner['name']}") for inner in type_["struct"]],
    }


def _sql_column(field: dict[str, Any]) -> str:
    type_ = field["type"]
    if type_ == "RECORD":
        type_ = f"STRUCT<{', '.join(_sql_column(inner) for inner in field['fields'])}>"
    if field["mode"] == "REPEATED":
        type_ = f"ARRAY<{type_}>"
    required = " NOT NULL" if field["mode"] == "REQUIRED" else ""
    options = f" OPTIONS (description={_sql_string(field['description'])})" if "description" in field else ""
    return f"`{field['name']}` {type_}{required}{options}"


def _sql_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
