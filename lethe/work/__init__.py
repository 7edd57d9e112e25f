"""The way of a request: request, job, open, forget, audit, execute."""
