"""Videos and a model server in, instruction data out: captions, events, a summary, questions, and what was dropped of them."""
