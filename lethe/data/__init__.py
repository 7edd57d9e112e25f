"""Reading and selecting data: sources, arrays, texts, poison."""
