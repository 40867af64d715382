"""From records to batches: samples, epoch order, workers and loaders."""
