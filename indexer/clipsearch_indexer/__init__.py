"""Ingest: scan, decode, encode, commit."""
