"""One runtime for each kind of model file, behind one interface."""
