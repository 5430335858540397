"""From ranked passages to an answer."""
