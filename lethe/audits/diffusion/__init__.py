"""See lethe.audits."""
