"""Opens the page: `python app.py [--host --port --share --auth ...]`; also the entry of a Space."""

import os
import sys

from synchuman.serving.space import in_space, space_arguments, space_variant
from synchuman.serving.zerogpu import on_zerogpu

if on_zerogpu():
    import spaces  # noqa: F401  before anything imports torch

from synchuman.cli import main


def start() -> int:
    """Serve; in a Space as its environment says, after fetching the published weights if it wants them."""
    space = in_space(os.environ)
    if space and space_variant(os.environ) == "official" and (code := main(["weights", "pull"])):
        return code
    return main(["serve", *(space_arguments(os.environ) if space else []), *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(start())
