#!/usr/bin/env bash
# pyarrow 25.0.1 (DuckDB 2.0.0 beside it): a table of clips with a box of four floats, null where no face was found.
#
# Guess: what pyarrow writes to Parquet it reads back; a type that Parquet cannot hold is refused on writing.
# Seen: a fixed_size_list column with a null in it is written without a word and holds all values (DuckDB reads them,
#   and so does pyarrow from the same table saved with store_schema=False), but pyarrow cannot read its own file:
#   ArrowInvalid "Expected all lists to be of size=4 but index 2 had size=0". A row group without a null reads well, so
#   a sample of a long table may pass.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv
pins="pyarrow==25.0.1 duckdb==2.0.0 numpy==2.4.6"
if command -v uv >/dev/null; then uv pip install -q --python venv/bin/python $pins; else venv/bin/pip install -q $pins; fi
export HOME="$work"
venv/bin/python - <<'PY'
import duckdb, pyarrow as pa, pyarrow.parquet as pq

rows = [[1.0, 2.0, 3.0, 4.0], None, [5.0, 6.0, 7.0, 8.0]]
table = pa.table({"box": pa.array(rows, pa.list_(pa.float32(), 4))})
table.validate(full=True)
pq.write_table(table, "clips.parquet")
pq.write_table(table, "no_schema.parquet", store_schema=False)
pq.write_table(table, "grouped.parquet", row_group_size=1)
try:
    own = pq.read_table("clips.parquet")["box"].to_pylist()
except pa.ArrowInvalid as error:
    own = str(error)
by_duckdb = [box and list(box) for (box,) in duckdb.sql("select box from 'clips.parquet'").fetchall()]
no_schema = pq.read_table("no_schema.parquet")["box"].to_pylist()
first_group = pq.ParquetFile("grouped.parquet").read_row_group(0)["box"].to_pylist()
print("pyarrow:", own, "\nDuckDB:", by_duckdb, "\nstore_schema=False:", no_schema, "\nfirst row group:", first_group)
assert own == "Expected all lists to be of size=4 but index 2 had size=0", own
assert by_duckdb == no_schema == rows and first_group == rows[:1]
PY
echo "as stated"
