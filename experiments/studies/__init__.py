"""Studies: configurations of comparisons."""
