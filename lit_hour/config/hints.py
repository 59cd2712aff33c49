"""Find the setting that an unknown name means: former, foreign and similar names."""

from __future__ import annotations

import difflib
from collections.abc import Collection

# former name of a setting or section: present name
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
    "text.time_instruction": "text.time_sentence",
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
}
# former name of a setting, if its values have changed as well: the end of the message
RENAMED_VALUES = {"text.time_instruction": " Write own for true, and none for false."}


# setting: what other projects (Hugging Face, Lightning, LLaVA, lmms-eval, litgpt, PEFT) call it
OTHER_NAMES = {
    "run.name": "run_name exp_name experiment resume resume_from_checkpoint ckpt_path",
    "run.folder": "output_dir out_dir save_dir work_dir default_root_dir logging_dir",
    "run.seed": "random_seed manual_seed data_seed",
    "video.fps": "fps frame_rate framerate video_fps sample_fps frames_per_second",
    "video.sampling": "frame_sampling sampling_strategy sample_strategy",
    "video.max_frames": "num_frames nframes max_num_frames max_frames_num frames_upbound",
    "video.image_size": "resolution img_size crop_size input_size frame_size size_pixels",
    "image.max_tiles": "image_aspect_ratio image_grid_pinpoints max_num_tiles",
    "text.max_tokens": (
        "max_length max_seq_length max_seq_len model_max_length cutoff_len block_size"
    ),
    "text.time_sentence": "add_time_instruction",
    "text.loss_on_template": "train_on_inputs",
    "data.global_batch_size": (
        "batch_size train_batch_size total_batch_size gradient_accumulation_steps"
        " accumulate_grad_batches grad_accum"
    ),
    "data.micro_batch_size": (
        "per_device_train_batch_size per_gpu_batch_size device_batch_size"
        " gradient_accumulation_steps accumulate_grad_batches grad_accum"
    ),
    "data.tokens_per_batch": "max_tokens max_tokens_per_batch token_budget batch_tokens",
    "data.batches_per_step": "update_freq",
    "data.num_workers": "workers dataloader_num_workers preprocessing_num_workers num_proc",
    "data.sources.NAME.shards": (
        "dataset datasets data_path data_dir train_data train_file video_folder image_folder"
    ),
    "data.val_sources.NAME.shards": "val_data eval_data eval_dataset val_file validation_file",
    "model.vision.name": "vision_tower mm_vision_tower vision_model vision_encoder",
    "model.vision.weights": "vision_tower mm_vision_tower",
    "model.vision.layer": "mm_vision_select_layer vision_feature_layer",
    "model.vision.grid": "mm_spatial_pool_stride pool_size",
    "model.memaug.num_layers": "memaug_depth",
    "model.memaug.shard_memory": "sequence_parallel context_parallel context_parallel_size",
    "model.memaug.spatial_forgetting": "spatial_sampling_type",
    "model.llm.path": "llm_path llm_name language_model base_model",
    "model.llm.hidden_size": "n_embd d_model embed_dim",
    "model.llm.num_layers": "n_layer n_layers num_hidden_layers",
    "model.llm.num_heads": "n_head n_heads num_attention_heads",
    "model.llm.num_key_value_heads": "n_query_groups n_kv_heads num_kv_heads",
    "model.llm.quantize": "quantization load_in_8bit load_in_4bit bits quant qlora",
    "model.llm.lora.rank": "lora_r lora_rank r",
    "model.llm.lora.alpha": "lora_alpha",
    "model.llm.lora.dropout": "lora_dropout",
    "model.llm.lora.path": "adapter adapter_path peft_path lora_path lora_weights",
    "model.llm.lora.targets": "target_modules lora_target_modules lora_target",
    "model.llm.lora.use_dora": "dora",
    "model.llm.lora.use_rslora": "rslora",
    "training.init_from": (
        "pretrained model_name_or_path model_path init_checkpoint load_from weights start_from"
    ),
    "training.objective": "loss_type task_type stage training_stage",
    "training.dpo.beta": "dpo_beta pref_beta beta",
    "training.grpo.num_answers": "num_generations group_size n_samples",
    "training.grpo.updates_per_group": "num_iterations ppo_epochs mu",
    "training.grpo.kl_coefficient": "kl_coef kl_beta beta",
    "training.grpo.clip_epsilon": "epsilon clip_range cliprange",
    "training.max_steps": "epochs num_epochs num_train_epochs max_epochs iters num_steps",
    "training.learning_rate.llm": "lr learning_rate max_lr base_lr peak_lr mm_tunable_parts",
    "training.learning_rate.memaug": "lr learning_rate max_lr base_lr peak_lr mm_tunable_parts",
    "training.learning_rate.projector": (
        "lr learning_rate max_lr base_lr peak_lr mm_tunable_parts mm_projector_lr projector_lr"
        " tune_mm_mlp_adapter"
    ),
    "training.learning_rate.vision": (
        "lr learning_rate max_lr base_lr peak_lr mm_tunable_parts mm_vision_tower_lr vision_lr"
        " unfreeze_mm_vision_tower"
    ),
    "training.warmup_ratio": "warmup warmup_steps num_warmup_steps warmup_iters",
    "training.gradient_clip_norm": (
        "grad_clip clip_grad max_grad_norm max_norm gradient_clip_val clip_grad_norm"
    ),
    "training.precision": "fp16 bf16 dtype torch_dtype mixed_precision amp",
    "training.val_every_n_steps": "eval_steps eval_interval val_check_interval validate_every",
    "training.save_every_n_steps": "save_steps save_interval save_every every_n_train_steps",
    "training.save_total_limit": "save_top_k keep_last",
    "training.log_every_n_steps": "logging_steps log_interval log_every",
    "training.logger": "report_to log_with logger_name loggers",
    "training.peak_tflops": "peak_flops hardware_flops gpu_peak_flops flops_promised",
    "training.profiler.num_steps": "profile use_profiler profile_steps torch_profiler",
    "training.accelerator": "device",
    "training.devices": "gpus num_gpus n_gpus nproc_per_node",
    "training.num_nodes": "nodes nnodes",
    "training.strategy": "deepspeed fsdp ddp",
    "training.optimizer": "optim optimizer_name optimizer_type optim_8bit use_8bit_adam",
    "training.replicas": "hsdp hybrid_shard data_parallel_replicate_degree num_replicas",
    "training.cpu_offload": "offload cpu_offloading offload_optimizer offload_params",
    "training.activation_checkpointing": "gradient_checkpointing grad_checkpointing",
    "training.packing": "sequence_packing sample_packing neat_packing pack_sequences",
    "training.compile": "torch_compile",
    "generation.max_new_tokens": "max_gen_toks max_completion_tokens max_output_tokens",
    "serving.server.max_concurrent_requests": "max_num_seqs max_concurrency",
    "evaluation.benchmark": "task",
}


def present_name(name: str) -> str | None:
    """Return the present name of a renamed setting, or None for a name that never existed.

    Args:
        name: full name. It may lie in a renamed section, or contain the name of a source:
            `data.sources.a.start`.
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        former = parts[:length]
        for pattern in (former, [*former[:2], "NAME", *former[3:]]):
            if found := RENAMED.get(".".join(pattern)):
                present = [*found.split("."), *parts[length:]]
                if pattern != former:
                    present[2] = parts[2]
                return ".".join(present)
    return None


def suggest_settings(name: str, known: Collection[str]) -> list[str]:
    """Return the settings that an unknown name probably means.

    By meaning first: a small typing error of a full name, the name of the thing in other projects,
    the same last word in another section. By similar letters last.

    Args:
        name: the unknown full name.
        known: full names of the schema, with NAME for the name of a source.
    """
    *section, last_word = name.split(".")
    source = section[2] if len(section) > 2 else "NAME"
    known = [full_name.replace(".NAME", f".{source}") for full_name in known]
    last_word = last_word.lower().replace("-", "_")
    return (
        difflib.get_close_matches(name, known, n=1, cutoff=0.9)
        or _translate(last_word, ".".join(section), known)
        or [full_name for full_name in known if full_name.split(".")[-1] == last_word]
        or difflib.get_close_matches(name, known, n=1)
    )


def _translate(word: str, section: str, known: Collection[str]) -> list[str]:
    """Return the settings that other projects call `word`; the one in `section` if there is one."""
    settings = [setting for setting, names in OTHER_NAMES.items() if word in names.split()]
    in_section = [f"{section}.{setting.rpartition('.')[2]}" for setting in settings]
    return [setting for setting in in_section if setting in known] or settings
