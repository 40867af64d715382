"""Parts of detection transformers: deformable attention, positions, salience, encoder, decoder."""
