"""`python -m phronesis.engine.native` builds the compiled step for this machine and says where it lies, or why it cannot."""

import sys

from phronesis.engine.native.build import built

sys.stdout.write(f"{built().note}\n")
sys.exit(built().library is None)
