"""What the commands' exit codes mean, for those who write them and those who call them."""

from __future__ import annotations

# A wrong call is argparse's own 2.
OK, FAILED, WRONG_CALL, BAD_INPUT, STOPPED = 0, 1, 2, 3, 130
