"""What every test runs under, also when pytest is called without lab.py."""

import os

# Before anything imports torch or transformers: one thread, because two test processes that
# both use every core slow each other ten-fold, and nothing fetched from a hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
