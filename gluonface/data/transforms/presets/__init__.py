"""What each system is trained and tested on: one module per system."""
