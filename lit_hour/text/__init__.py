"""Text as tokens: the tokenizer, the chat template, and the matching of answers.

Import the modules themselves; `answer_matching` works without torch.
"""
