"""One page on a model, data set and recipe before or after a training: what is assigned, seen, attended to, learned."""
