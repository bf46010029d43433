"""The form of a chat for families whose checkpoints hold no template, as Jinja.

Sources: the prompts that the families' own chat functions build.
"""

from __future__ import annotations

__all__ = [
    "BAICHUAN",
    "CHATGLM_2",
    "CHATGLM_3",
    "CHAT_ML",
    "CHAT_ML_WITH_SYSTEM",
    "GLM_4",
    "INTERNLM",
    "KIMI_K2",
    "MISTRAL_7",
]

_ONLY_TEXT_ROLES = """\
{%- for message in messages if message.role not in ('system', 'user', 'assistant') %}
{{- raise_exception('this model has no role ' ~ message.role) }}
{%- endfor %}
"""

_CHAT_ML_TURNS = """\
{%- for message in messages %}
{{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

CHAT_ML = "{{- bos_token }}\n" + _CHAT_ML_TURNS

CHAT_ML_WITH_SYSTEM = (
    """\
{%- if messages[0].role != 'system' %}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
"""
    + _CHAT_ML_TURNS
)

GLM_4 = """\
{{- '[gMASK]<sop>' }}
{%- for message in messages %}
{{- '<|' ~ message.role ~ '|>\\n' ~ message.content }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""

# The space is how SentencePiece spells the beginning of a text of its own, which a message is.
CHATGLM_3 = """\
{{- '[gMASK]sop' }}
{%- for message in messages %}
{{- '<|' ~ message.role ~ '|>\\n ' ~ message.content }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""

# It has no system role: what a system message says stands before the first round.
CHATGLM_2 = (
    _ONLY_TEXT_ROLES
    + """\
{%- set count = namespace(rounds=0) %}
{{- '[gMASK]sop' }}
{%- for message in messages %}
{%- if message.role == 'system' %}
{{- message.content ~ '\\n\\n' }}
{%- elif message.role == 'user' %}
{%- set count.rounds = count.rounds + 1 %}
{{- '[Round ' ~ count.rounds ~ ']\\n\\n问：' ~ message.content ~ '\\n\\n' }}
{%- else %}
{{- '答：' ~ message.content ~ ('' if loop.last else '\\n\\n') }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '答：' }}{% endif %}"""
)

BAICHUAN = (
    _ONLY_TEXT_ROLES
    + """\
{%- set marks = {'system': '', 'user': user_token, 'assistant': assistant_token} %}
{%- for message in messages %}
{{- marks[message.role] ~ message.content }}
{%- endfor %}
{%- if add_generation_prompt %}{{ assistant_token }}{% endif %}"""
)

INTERNLM = (
    _ONLY_TEXT_ROLES
    + """\
{{- bos_token }}
{%- for message in messages %}
{%- if message.role == 'system' %}
{{- '<|System|>:' ~ message.content ~ '\\n' }}
{%- elif message.role == 'user' %}
{{- '<|User|>:' ~ message.content ~ '<eoh>\\n' }}
{%- else %}
{{- '<|Bot|>:' ~ message.content ~ '<eoa>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|Bot|>:' }}{% endif %}"""
)

KIMI_K2 = (
    _ONLY_TEXT_ROLES
    + """\
{%- for message in messages %}
{{- '<|im_' ~ message.role ~ '|>' ~ message.role ~ '<|im_middle|>' ~ message.content }}
{{- '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_assistant|>assistant<|im_middle|>' }}{% endif %}"""
)

MISTRAL_7 = (
    _ONLY_TEXT_ROLES
    + """\
{%- if tools %}{{- raise_exception('give a chat template that writes tools') }}{% endif %}
{{- bos_token }}
{%- for message in messages %}
{%- if message.role == 'system' %}
{{- '[SYSTEM_PROMPT]' ~ message.content ~ '[/SYSTEM_PROMPT]' }}
{%- elif message.role == 'user' %}
{{- '[INST]' ~ message.content ~ '[/INST]' }}
{%- else %}
{{- message.content ~ eos_token }}
{%- endif %}
{%- endfor %}"""
)
