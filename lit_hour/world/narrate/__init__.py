"""A `Story` in, words out: captions, events and a summary (`tell`), and questions with their answers (`ask`)."""
