"""From YAML to a pipeline."""
