"""HTTP requests -> streamed answers about videos that are remembered. The only home of FastAPI and uvicorn."""
