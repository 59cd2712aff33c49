"""Files: atomic writes, locks, JSONL, hashes, int8 quantization, HTML."""
