"""Stage 2: structured latents to a fine mesh."""
