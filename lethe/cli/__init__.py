"""The command line: thin, lazily importing."""
