"""Ragstone: retrieval and question answering whose pipelines are written in YAML."""
