"""Transforms that move image, boxes, points and pose together."""
