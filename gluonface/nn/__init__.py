"""HybridBlocks that the five systems share."""
