"""Sharded and sliced models, from which records can be deleted exactly, with manifests of what each part has read."""
