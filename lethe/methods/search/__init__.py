"""Methods that run other methods and choose by what an audit of their own says; nothing else may judge."""
