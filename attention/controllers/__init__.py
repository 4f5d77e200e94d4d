"""Controllers of a layer's span: the protocol and exported policies."""
