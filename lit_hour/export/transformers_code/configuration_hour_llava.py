"""Configuration of an exported Hour-LLaVA: sizes of its parts, and what its memory keeps."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig


class HourLlavaVisionConfig(PreTrainedConfig):
    """Sizes of the vision tower, which ends at the layer whose tokens are used."""

    model_type = "hour_llava_vision"

    def __init__(
        self,
        tower: str = "transformer",
        image_mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        image_std: tuple[float, ...] = (0.5, 0.5, 0.5),
        encode_batch_size: int = 128,
        sizes: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Set the values.

        Args:
            tower: "transformer" (ViT) or "resnet".
            image_mean: of red, green and blue, from 0 to 1.
            image_std: standard deviations, like `image_mean`.
            encode_batch_size: images encoded at once.
            sizes: of the tower, see `vision_hour_llava`.
            kwargs: of transformers.
        """
        self.tower = tower
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self.encode_batch_size = encode_batch_size
        self.sizes = sizes or {}
        super().__init__(**kwargs)


class HourLlavaConfig(PreTrainedConfig):
    """Configuration of the whole model."""

    model_type = "hour_llava"
    sub_configs = {"text_config": AutoConfig, "vision_config": HourLlavaVisionConfig}  # noqa: RUF012

    def __init__(
        self,
        text_config: dict[str, Any] | PreTrainedConfig | None = None,
        vision_config: dict[str, Any] | HourLlavaVisionConfig | None = None,
        memory: dict[str, Any] | None = None,
        memaug_num_layers: int = 4,
        use_full_memory: bool = True,
        image_token_id: int = 0,
        **kwargs: Any,
    ) -> None:
        """Set the values.

        Args:
            text_config: of the language model, by its `model_type`.
            vision_config: of the vision tower.
            memory: values of `memory_hour_llava.MemorySettings`.
            memaug_num_layers: blocks of memory augmentation.
            use_full_memory: attend to the whole memory; false: to the kept tokens alone.
            image_token_id: placeholder of a visual token in `input_ids`, which is never generated.
            kwargs: of transformers.
        """
        if not isinstance(text_config, PreTrainedConfig):
            text_config = AutoConfig.for_model(**(text_config or {"model_type": "qwen2"}))
        if not isinstance(vision_config, HourLlavaVisionConfig):
            vision_config = HourLlavaVisionConfig(**(vision_config or {}))
        self.text_config, self.vision_config = text_config, vision_config
        self.memory = memory or {}
        self.memaug_num_layers, self.use_full_memory = memaug_num_layers, use_full_memory
        self.image_token_id = image_token_id
        self.tie_word_embeddings = text_config.tie_word_embeddings
        kwargs.pop("tie_word_embeddings", None)  # that of the language model counts
        super().__init__(**kwargs)
