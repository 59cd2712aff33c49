"""The model card and the chat template of an exported model, without exporting one."""

from dataclasses import replace
from pathlib import Path

from transformers.utils.chat_template_utils import _compile_jinja_template

from lit_hour.config.data import SourceConfig
from lit_hour.config.schema import Config
from lit_hour.export.chat_template import build_chat_template
from lit_hour.export.model_card import write_model_card


def test_any_character_of_the_system_prompt_is_rendered_as_it_is() -> None:
    prompt = 'Be "brief" \U0001f600 \u00e9, \\ {{ x }} {% y %}\n\u4f60'
    template = build_chat_template(replace(Config().text, system_prompt=prompt))
    messages = [{"role": "user", "content": "What?"}]
    rendered = _compile_jinja_template(template).render(messages=messages)
    assert rendered.startswith(f"<|im_start|>system\n{prompt}<|im_end|>\n<|im_start|>user\n")


def test_the_card_holds_no_secrets_of_urls(tmp_path: Path) -> None:
    url = "https://me:password@example.org/shards?signature=abc"
    config = Config()
    sources = {"web": SourceConfig(shards=url)}
    config = replace(
        config,
        data=replace(config.data, sources=sources),
        training=replace(config.training, init_from=url),
    )
    write_model_card(tmp_path, "model", config, tmp_path / "run/checkpoints/best.ckpt", [])
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "`web`: https://example.org/shards," in card
    assert "password" not in card and "signature" not in card
