"""Read videos and images, and splice videos: the only home of PyAV.

Open `video_reader.py` first (`SampledVideo`, `load_video`, `read_frames`), then `anyres.py`
(images). Import the modules themselves.
"""
