"""Makes a GLB from a photo: `python run_pipeline.py --image photo.jpg --workdir out [--skip_stage1]`."""

import sys

from synchuman.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
