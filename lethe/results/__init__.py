"""What a run leaves behind: a typed, versioned schema; rows built from evidence; measured numbers. No torch."""
