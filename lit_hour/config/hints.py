"""Names that are not settings, and the settings that they mean: former names, and names in other projects."""

from __future__ import annotations

RENAMED = {
    "answer": "generation",
    "encode": "features",
    "marathon": "videomarathon",
    "marathon.answer_form": "videomarathon.response_format",
    "marathon.filters.blind_tries": "videomarathon.filters.blind_trials",
    "marathon.filters.keep_blind": "videomarathon.filters.blind_keep_ratio",
    "marathon.filters.likeness": "videomarathon.filters.dedup_threshold",
    "marathon.filters.max_blind_share": "videomarathon.filters.max_blind_accuracy",
    "marathon.frames_per_second": "videomarathon.fps",
    "marathon.max_answer_tokens": "videomarathon.max_new_tokens",
    "marathon.max_failed": "videomarathon.max_failed_videos",
    "marathon.max_missing": "videomarathon.max_missing_videos",
    "marathon.serving": "videomarathon.client",
    "marathon.serving.answer_price": "videomarathon.client.completion_price",
    "marathon.serving.max_wait_seconds": "videomarathon.client.max_backoff_seconds",
    "marathon.serving.requests_at_once": "videomarathon.client.max_concurrent_requests",
    "marathon.serving.videos_at_once": "videomarathon.client.max_concurrent_videos",
    "marathon.serving.videos_read_at_once": "videomarathon.client.max_concurrent_reads",
    "marathon.serving.wait_seconds": "videomarathon.client.backoff_seconds",
    "marathon.size_pixels": "videomarathon.image_size",
    "world": "synthetic",
    "world.frames_per_second": "synthetic.fps",
    "world.num_validation_videos": "synthetic.num_val_videos",
    "world.size_pixels": "synthetic.image_size",
    "data.balance_steps": "data.length_balance_window",
    "data.cache_gigabytes": "data.cache_gb",
    "data.max_skipped": "data.max_bad_samples",
    "data.on_change": "data.on_data_change",
    "data.samples_per_batch": "data.micro_batch_size",
    "data.samples_per_step": "data.global_batch_size",
    "data.sources.NAME.start": "data.sources.NAME.skip_fraction",
    "data.validation_questions": "data.val_questions_per_video",
    "data.validation_sources": "data.val_sources",
    "data.validation_sources.NAME.start": "data.val_sources.NAME.skip_fraction",
    "evaluation.max_refused": "evaluation.max_invalid_records",
    "evaluation.max_skipped": "evaluation.max_skipped_questions",
    "evaluation.num_videos": "evaluation.limit",
    "evaluation.questions_at_once": "evaluation.batch_size",
    "model.language": "model.llm",
    "model.language.folder": "model.llm.path",
    "model.language.initial_deviation": "model.llm.initializer_range",
    "model.language.norm_epsilon": "model.llm.rms_norm_eps",
    "model.language.tie_embeddings": "model.llm.tie_word_embeddings",
    "model.language.vocabulary_size": "model.llm.vocab_size",
    "model.memory": "model.memaug",
    "model.memory.answer_spatial_forgetting": "model.memaug.eval_spatial_forgetting",
    "model.memory.initial_deviation": "model.memaug.initializer_range",
    "model.memory.look_back": "model.memaug.use_full_memory",
    "model.memory.max_query_frames": "model.memaug.max_kept_frames",
    "model.memory.spatial_keep": "model.memaug.spatial_keep_ratio",
    "model.memory.temporal_keep": "model.memaug.temporal_keep_ratio",
    "model.vision.chunk_frames": "model.vision.encode_batch_size",
    "model.vision.max_learning_frames": "model.vision.max_trainable_frames",
    "pack.max_skipped": "pack.max_bad_samples",
    "serving.memory_gigabytes": "serving.memory_cache_gb",
    "serving.server.answers_at_once": "serving.server.max_concurrent_requests",
    "serving.server.decode_memory_gigabytes": "serving.server.decode_ram_gb",
    "serving.server.host_names": "serving.server.allowed_hosts",
    "serving.server.idle_seconds": "serving.server.upload_idle_seconds",
    "serving.server.max_upload_megabytes": "serving.server.max_upload_mb",
    "serving.server.queue_length": "serving.server.max_queue_length",
    "serving.server.uploads_at_once": "serving.server.max_concurrent_uploads",
    "text.choice_answer": "text.mcq_format",
    "text.learn_template": "text.loss_on_template",
    "text.memory_question": "text.memaug_question_scope",
    "text.vocabulary_size": "text.vocab_size",
    "training.checkpoint_every_steps": "training.save_every_n_steps",
    "training.clip_norm": "training.gradient_clip_norm",
    "training.cpu_threads": "training.num_threads",
    "training.keep_checkpoints": "training.save_total_limit",
    "training.learning_rate.language": "training.learning_rate.llm",
    "training.learning_rate.memory": "training.learning_rate.memaug",
    "training.log_every_steps": "training.log_every_n_steps",
    "training.pictures": "training.num_val_images",
    "training.start_from": "training.init_from",
    "training.validate_every_steps": "training.val_every_n_steps",
    "training.warmup_share": "training.warmup_ratio",
    "video.frames_per_second": "video.fps",
    "video.key_frames_only": "video.keyframes_only",
    "video.on_damage": "video.on_decode_error",
    "video.show": "video.frames",
    "video.size_pixels": "video.image_size",
}  # former name of a setting or section: present name


def renamed(name: str) -> str | None:
    """Return the present name of a setting that had another one, or None if the name was never used.

    Args:
        name: a full name; it may lie in a section that was renamed, and name a source: `data.sources.a.start`.
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        former = parts[:length]
        for pattern in (former, [*former[:2], "NAME", *former[3:]]):
            if found := RENAMED.get(".".join(pattern)):
                present = [*found.split("."), *parts[length:]]
                if pattern != former:
                    present[2] = parts[2]
                return renamed(".".join(present)) or ".".join(present)
    return None
