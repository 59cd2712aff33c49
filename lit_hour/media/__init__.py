"""Read videos and images: the only home of PyAV.

Open `video_reader.py` first (`read_frames`), then `frame_sampling.py` (`SampledVideo`,
`load_video`) and `anyres.py` (images). Import the modules themselves.
"""
