"""Tables of environments: made by jobs, listed and removed."""
