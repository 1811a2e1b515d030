"""The daemon with a queue for its log that is soon full; everything else is as shipped.

python -m tests.faults.short_queue FLAGS...
"""

import sys

from pyflanneld import cli
from pyflanneld.logs import writer

if __name__ == "__main__":
    writer.QUEUE_BYTES, writer.RESERVED_BYTES = 32 * 1024, 8 * 1024
    sys.exit(cli.main())
