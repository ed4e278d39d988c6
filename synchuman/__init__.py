"""SyncHuman Studio: one photo of a person in, a textured 3D human out."""

__version__ = "0.1.0"
