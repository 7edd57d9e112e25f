"""Pure functions of tensors and arrays that more than one file uses; a formula of one file stands in that file."""
