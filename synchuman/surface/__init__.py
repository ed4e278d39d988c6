"""From a field to a clean, textured, exported surface."""
