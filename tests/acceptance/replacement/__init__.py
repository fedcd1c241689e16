"""Changes of running models that fail, are interrupted, or must not disturb others: the old model serves again."""
