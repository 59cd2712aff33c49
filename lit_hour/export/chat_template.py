"""The chat template of an exported model, with the system prompt of its run."""

from __future__ import annotations

import json

from lit_hour.config.schema import TextConfig

# Text is stripped as in training; behind the published sentence about a video it is not.
TEMPLATE = """\
{%- if messages[0].role != 'system' -%}
{{ '<|im_start|>system\\n' + SYSTEM_PROMPT + '<|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{- message.content | trim -}}
{%- else -%}
{%- set text = namespace(keeps_blanks=false) -%}
{%- for item in message.content -%}
{%- if item.type in ('image', 'video') -%}
{%- set text.keeps_blanks = item.type == 'video' and KEEPS_BLANKS -%}
{{- '<image>\\n' -}}
{%- else -%}
{{- item.text if text.keeps_blanks else item.text | trim -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def build_chat_template(config: TextConfig) -> str:
    """Return the Jinja template that renders messages as `tokenize_conversation` tokenizes them."""
    keeps_blanks = "true" if config.time_sentence == "published" else "false"
    prompt = json.dumps(config.system_prompt.strip(), ensure_ascii=False)
    return TEMPLATE.replace("SYSTEM_PROMPT", prompt).replace("KEEPS_BLANKS", keeps_blanks)
