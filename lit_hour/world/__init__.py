"""Made-up videos whose truth is known: a seed becomes a story, the story an mp4 and questions with their answers."""
