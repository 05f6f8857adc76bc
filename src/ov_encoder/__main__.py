"""`python -m ov_encoder` is `ov-encoder`: what torchrun starts."""

import sys

from ov_encoder.cli import main

sys.exit(main())
