"""From documents to the index of one segment."""
