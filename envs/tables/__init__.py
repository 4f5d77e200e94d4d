"""Tables: exact environments that look up what live layers would compute."""
