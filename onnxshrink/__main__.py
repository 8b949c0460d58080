"""``python -m onnxshrink``."""

import sys

from onnxshrink.cli.main import main

sys.exit(main())
