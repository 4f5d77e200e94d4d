"""Studies: what is compared, on what and for how long."""
