"""Opens the page: `python app.py [--host --port --share --auth ...]`; also the entry of a Space."""

import os
import sys

from synchuman.cli import main

if __name__ == "__main__":
    # A Space is public by design, and its proxy reaches the page from another host.
    space = ["--host", "0.0.0.0", "--port", "7860", "--allow-public"] if "SPACE_ID" in os.environ else []
    sys.exit(main(["serve", *space, *sys.argv[1:]]))
