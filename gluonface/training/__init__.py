"""What the training loop in :mod:`gluonface.engine` is made of: its settings, checkpoints and log."""
