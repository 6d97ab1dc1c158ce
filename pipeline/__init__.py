"""One plain module per stage of the DAG: paths in, files out."""
