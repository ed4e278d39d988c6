"""From photo bytes to a checked, upright, cut-out person."""
