"""What runs need of a machine: every such figure, estimated or measured, in this one place.

Imports nothing, because `setup_instance.sh` reads it, too.
"""

GIB = 2**30

# The published variant in float16: bytes of a GPU that have to be free for all its networks to stay there,
# and for one network at a time: what `bench/official.py --parts memory` found reserved on an H100 (12.0 and
# 6.5 GiB) and what CUDA itself takes.
OFFICIAL_RESIDENT, OFFICIAL_STAGED = 13 * GIB, 7 * GIB
# Bytes of the machine's own memory for its weights, and of the disk for the download.
OFFICIAL_HOST, OFFICIAL_DOWNLOAD = 10 * GIB, 10 * GIB

# Feature maps of the finest level that are alive at once, in round numbers; see `placement.working_bytes`.
MAPS_JOINT, MAPS_AUTOENCODER, MAPS_DECODER = 24, 10, 12
# Occupied voxels of a person in the 64³ grid.
TYPICAL_VOXELS = 12_000
