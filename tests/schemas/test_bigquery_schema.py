"""The BigQuery form: exact, nested, and honest about null lists."""

import pyarrow as pa
import pytest
from google.cloud import bigquery
from toy_contracts import contract_of, every_type

from schemas.bigquery import bigquery_ddl, bigquery_schema
from schemas.catalogue import CONTRACTS
from schemas.contract import column

PART = [{"name": "in", "type": "INT64", "mode": "REQUIRED"}, {"name": "note", "type": "STRING", "mode": "NULLABLE"}]


def test_every_type_is_spelled_exactly():
    assert bigquery_schema(every_type()) == [
        {"name": "id", "type": "STRING", "mode": "REQUIRED", "description": "Text."},
        {"name": "flag", "type": "BOOL", "mode": "NULLABLE", "description": "Flag."},
        {"name": "small", "type": "INT64", "mode": "REQUIRED", "description": "Small."},
        {"name": "big", "type": "INT64", "mode": "NULLABLE", "description": "Big. Unit: ms."},
        {"name": "half", "type": "FLOAT64", "mode": "REQUIRED", "description": "Half."},
        {"name": "full", "type": "FLOAT64", "mode": "NULLABLE", "description": "Full."},
        {"name": "day", "type": "DATE", "mode": "REQUIRED", "description": "Day."},
        {"name": "at", "type": "TIMESTAMP", "mode": "NULLABLE", "description": "Instant."},
        {
            "name": "names",
            "type": "STRING",
            "mode": "REPEATED",
            "description": "Names. Null is stored as an empty array.",
        },
        {"name": "vector", "type": "FLOAT64", "mode": "REPEATED", "description": "Vector."},
        {"name": "parts", "type": "RECORD", "mode": "REPEATED", "description": "Parts.", "fields": PART},
        {"name": "part", "type": "RECORD", "mode": "NULLABLE", "description": "Part.", "fields": PART},
    ]


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=lambda c: c.name)
def test_the_client_reads_it_back_unchanged(contract):
    fields = bigquery_schema(contract)
    assert [bigquery.SchemaField.from_api_repr(field).to_api_repr() for field in fields] == fields
    assert [field["name"] for field in fields] == contract.schema.names


def test_a_nested_null_list_says_so_too():
    availability = next(f for f in bigquery_schema(CONTRACTS["item"]) if f["name"] == "availability")
    tiers = next(f for f in availability["fields"] if f["name"] == "tiers")
    assert tiers == {
        "name": "tiers",
        "type": "STRING",
        "mode": "REPEATED",
        "description": "Null is stored as an empty array.",
    }


@pytest.mark.parametrize("inner", [pa.list_(pa.int64()), pa.list_(pa.float32(), 4)], ids=["list", "vector"])
def test_a_list_of_lists_is_refused_by_name(inner):
    nested = pa.struct([pa.field("grid", pa.list_(inner))])
    contract = contract_of(column("id", pa.string(), "Id."), column("box", nested, "Box."))
    with pytest.raises(ValueError, match=r"toy\.box\.grid: BigQuery stores no list of lists; put the inner list into"):
        bigquery_schema(contract)


def test_the_statement_is_partitioned_by_date_and_clustered_by_key():
    contract = every_type(description='A "quoted" text.')
    lines = bigquery_ddl(contract, "project.dataset.toy").splitlines()
    assert lines[0] == "CREATE TABLE IF NOT EXISTS `project.dataset.toy` ("
    assert lines[1] == r'  `id` STRING NOT NULL OPTIONS (description="A \"quoted\" text."),'
    assert lines[9] == '  `names` ARRAY<STRING> OPTIONS (description="Names. Null is stored as an empty array."),'
    assert lines[11] == '  `parts` ARRAY<STRUCT<`in` INT64 NOT NULL, `note` STRING>> OPTIONS (description="Parts."),'
    assert lines[12] == '  `part` STRUCT<`in` INT64 NOT NULL, `note` STRING> OPTIONS (description="Part.")'
    assert lines[13:] == [
        ")",
        "PARTITION BY `day`",
        "CLUSTER BY `id`",
        f'OPTIONS (description="A toy.", labels=[("version", "1-0-0"), ("fingerprint", "{contract.fingerprint}")])',
    ]


def test_a_table_without_a_date_is_not_partitioned_and_clusters_by_four_columns_at_most():
    names = [f"k{n}" for n in range(5)]
    contract = contract_of(*(column(name, pa.string(), "Key.") for name in names), key=tuple(names))
    statement = bigquery_ddl(contract, "p.d.t")
    assert "PARTITION" not in statement
    assert "CLUSTER BY `k0`, `k1`, `k2`, `k3`\n" in statement
