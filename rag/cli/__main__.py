"""``python -m rag.cli`` is the command ``rag``."""

from rag.cli import main

main()
