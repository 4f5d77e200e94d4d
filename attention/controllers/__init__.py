"""What sets the span of a layer: the protocol and exported policies."""
