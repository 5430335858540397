"""Language models that others have trained: where they lie, and how they are loaded safely."""
