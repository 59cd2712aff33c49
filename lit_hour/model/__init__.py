"""The model in plain torch, without Lightning, files and tokenizer. Start at `hour_llava`."""
