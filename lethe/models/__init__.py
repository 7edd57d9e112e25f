"""One package per family: its task, how it comes in and goes out, its small models."""
