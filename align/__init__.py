"""align: what preference alignment does to a language model, measured the same way for every method."""

import logging

__version__ = "0.1.0"

# PEFT imports bitsandbytes, which warns at once of a kernel that it can do without, and later of int8's fp16 inputs in
# every layer and call.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
