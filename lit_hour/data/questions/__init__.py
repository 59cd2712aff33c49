"""Question records and question files. Start with `file.read_questions`."""
