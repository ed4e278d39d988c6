"""Network building blocks that both stages use."""
