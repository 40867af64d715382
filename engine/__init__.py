"""What the scripts do: training, evaluation and inference, on top of models and data."""
