"""The state of the application: its parts, and the operations that need several of them."""

from __future__ import annotations

from pathlib import Path

from lit_hour.config.serving import ServerConfig
from lit_hour.inference.memory_cache import MemoryCache
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.server.admission import AdmissionQueue
from lit_hour.server.auth import AccessPolicy, AllowedDirs
from lit_hour.server.decode_sandbox import start_forkserver
from lit_hour.server.description import DescriptionService
from lit_hour.server.generation import GenerationService
from lit_hour.server.http_errors import FieldError
from lit_hour.server.media import MediaLoader
from lit_hour.server.metrics import Metrics
from lit_hour.server.queueing import AdmissionLimit, ModelExecutor
from lit_hour.server.uploads import LockedTempDir
from lit_hour.server.video_store import VideoStore


class AppState:
    """A predictor and everything that many clients need to share it.

    Attributes:
        model_name: as clients request it.
    """

    def __init__(
        self,
        predictor: VideoPredictor,
        model_name: str,
        policy: AccessPolicy,
        allowed_dirs: AllowedDirs,
    ) -> None:
        serving = predictor.config.serving
        self.model_name, self.policy, self.allowed_dirs = model_name, policy, allowed_dirs
        self.settings: ServerConfig = serving.server
        self.metrics, self.executor = Metrics(), ModelExecutor()
        self._upload_dir = LockedTempDir(
            self.settings.upload_folder, "serving.server.upload_folder"
        )
        self._memory_dir = LockedTempDir(serving.memory_folder, "serving.memory_folder")
        budget_bytes = int(serving.memory_cache_gb * 1e9)
        self.cache = MemoryCache(predictor, self.memory_dir, budget_bytes)
        self.videos = VideoStore(predictor, self.executor, self.cache, self.settings, self.metrics)
        self.queue = AdmissionQueue(self.settings)
        self.uploads = AdmissionLimit(self.settings.max_concurrent_uploads, "uploads")
        self.generation = GenerationService(
            predictor, self.executor, self.videos, self.queue, self.metrics
        )
        self.descriptions = DescriptionService(predictor, self.executor, self.videos)
        self.media = MediaLoader(
            predictor.config, self.videos, allowed_dirs, self.upload_dir, self.uploads, self.metrics
        )
        self._add_gauges(predictor)
        start_forkserver()

    @property
    def upload_dir(self) -> Path:
        """The directory of the uploads."""
        return self._upload_dir.path

    @property
    def memory_dir(self) -> Path:
        """The directory of the memories that were spilled to disk."""
        return self._memory_dir.path

    def check_model(self, name: str) -> None:
        """Check the name of a model.

        Raises:
            FieldError: 404, there is no such model here.
        """
        if name != self.model_name:
            message = f"There is no model {name[:80]!r} here, only {self.model_name!r}."
            raise FieldError("model", message, 404)

    def close(self) -> None:
        """Stop everything, and delete the uploads and memories."""
        self.videos.close()
        self.executor.close()
        self._upload_dir.close()
        self._memory_dir.close()

    def _add_gauges(self, predictor: VideoPredictor) -> None:
        for name, documentation, read in (
            ("requests_running", "requests that generate", lambda: self.queue.running),
            (
                "requests_waiting",
                "requests that wait for their video or their turn",
                lambda: self.queue.in_system - self.queue.running,
            ),
            (
                "uploads_running",
                "uploads that are received or checked",
                lambda: self.uploads.in_system,
            ),
            (
                "kv_cache_bytes",
                "largest size of the KV caches of the answers that are generated",
                lambda: self.generation.scheduler.kv_caches.num_bytes,
            ),
            (
                "expected_wait_seconds",
                "time until all admitted requests are answered, from measured and queued tokens",
                lambda: self.queue.expected_seconds,
            ),
            ("videos_stored", "videos in the store", lambda: len(self.videos)),
            ("memory_cache_bytes", "video memories in RAM", lambda: self.cache.num_bytes),
            (
                "prefix_cache_bytes",
                "KV caches and visual tokens of earlier turns",
                lambda: predictor.prefixes.num_bytes + predictor.augmentations.num_bytes,
            ),
            (
                "upload_files",
                "uploaded files on disk",
                lambda: len(list(self.upload_dir.iterdir())),
            ),
        ):
            self.metrics.add_gauge(f"lit_hour_{name}", documentation, read)
