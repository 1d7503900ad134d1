"""The Avro form is exact: what goes in comes out, in binary and in JSON."""

import io
import json

import avro.schema
import fastavro
import pyarrow as pa
import pytest
from fastavro.validation import ValidationError
from toy_contracts import every_type, rows_of

from schemas.avro import avro_schema
from schemas.catalogue import CONTRACTS

ALL = [*CONTRACTS.values(), every_type()]
MAX_PUBSUB_SCHEMA_BYTES = 300_000


def test_every_type_is_spelled_exactly():
    part = [{"name": "in", "type": "int"}, {"name": "note", "type": ["null", "string"], "default": None}]
    assert avro_schema(every_type())["fields"] == [
        {"name": "id", "type": "string", "doc": "Text."},
        {"name": "flag", "type": ["null", "boolean"], "default": None, "doc": "Flag."},
        {"name": "small", "type": "int", "doc": "Small."},
        {"name": "big", "type": ["null", "long"], "default": None, "doc": "Big."},
        {"name": "half", "type": "float", "doc": "Half."},
        {"name": "full", "type": ["null", "double"], "default": None, "doc": "Full."},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}, "doc": "Day."},
        {
            "name": "at",
            "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}],
            "default": None,
            "doc": "Instant.",
        },
        {"name": "names", "type": ["null", {"type": "array", "items": "string"}], "default": None, "doc": "Names."},
        {"name": "vector", "type": {"type": "array", "items": "float", "length": 4}, "doc": "Vector."},
        {
            "name": "parts",
            "type": {"type": "array", "items": {"type": "record", "name": "toy__parts", "fields": part}},
            "doc": "Parts.",
        },
        {
            "name": "part",
            "type": ["null", {"type": "record", "name": "toy__part", "fields": part}],
            "default": None,
            "doc": "Part.",
        },
    ]


@pytest.mark.parametrize("contract", ALL, ids=lambda c: c.name)
def test_both_avro_libraries_accept_it_and_pubsub_has_room_for_it(contract):
    text = json.dumps(avro_schema(contract))
    assert fastavro.parse_schema(json.loads(text))["name"] == f"segue.{contract.name}"
    assert avro.schema.parse(text).fullname == f"segue.{contract.name}"
    assert len(text.encode()) < MAX_PUBSUB_SCHEMA_BYTES


@pytest.mark.parametrize("contract", ALL, ids=lambda c: c.name)
def test_rows_survive_binary_and_json(contract):
    schema = fastavro.parse_schema(avro_schema(contract))
    rows = rows_of(contract, count=30, seed=7)
    assert pa.Table.from_pylist(rows, contract.schema).to_pylist() == rows
    binary = io.BytesIO()
    fastavro.writer(binary, schema, rows, strict=True)
    binary.seek(0)
    assert list(fastavro.reader(binary)) == rows
    text = io.StringIO()
    fastavro.json_writer(text, schema, rows)
    text.seek(0)
    assert list(fastavro.json_reader(text, schema)) == rows


def test_a_required_column_refuses_null():
    row = rows_of(every_type(), count=1, seed=1)[0] | {"small": None}
    with pytest.raises(ValidationError, match=r"toy\.small\) is None expected int"):
        fastavro.writer(io.BytesIO(), fastavro.parse_schema(avro_schema(every_type())), [row], validator=True)
