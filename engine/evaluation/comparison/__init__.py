"""Results files and models beside each other: reading, resampling, tables."""
