"""Features of videos: their file format, their sources, and the folder that extraction writes."""
