"""Tables and HTML reports of results."""
