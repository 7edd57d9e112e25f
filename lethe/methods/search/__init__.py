"""Methods that run other methods and choose by an audit of their own; no other method may judge."""
