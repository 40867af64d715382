"""Box geometry that heads, losses and assignment share: decoding and similarity."""
