"""HTTP server for a trained run: a web page, and OpenAI's chat completions about videos.

Open `app.py` first (`serve`, `build_app`). Needs the extra `serve` (FastAPI, uvicorn).
"""
