"""Starts one fresh process per case and keeps every finished record, whatever happens to the process."""
