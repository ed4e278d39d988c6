"""Stage 1: joint 2D multiview and 3D structure diffusion."""
