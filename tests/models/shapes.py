"""Chat templates in the shapes that released models have, each with the control tokens that its tokenizer holds.

Written for these tests: what a shape does to a conversation is what counts, not whose it is.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    template: str
    special: tuple[str, ...] = ()  # added tokens that are marked special
    added: tuple[str, ...] = ()  # added tokens that are not
    system: bool = True  # whether a conversation may begin with a system turn
    eos: str | None = None  # None = the tokenizer's own, which the template may not write


_IM = ("<|im_start|>", "<|im_end|>")
_CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
_CHATML_PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

SHAPES = {
    "chatml": Shape(_CHATML + _CHATML_PROMPT, _IM),
    "chatml_end_not_special": Shape(_CHATML + _CHATML_PROMPT, _IM[:1], _IM[1:]),
    "llama_2": Shape(
        "{% if messages[0].role == 'system' %}{% set first = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
        "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
        "{% for m in rest %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ first if loop.first else '' }}"
        "{{ m.content | trim }} [/INST]{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}",
        ("<s>", "</s>"),
        eos="</s>",
    ),
    "llama_3": Shape(
        "{% for m in messages %}{{ bos_token if loop.first else '' }}<|start_header_id|>{{ m.role }}<|end_header_id|>"
        "\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        ("<s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "gemma_without_system": Shape(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turns') }}"
        "{% endif %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
        "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        ("<s>", "<start_of_turn>", "<end_of_turn>"),
        system=False,
    ),
    "mistral": Shape(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}"
        "[/SYSTEM_PROMPT]{% elif m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content }}"
        "{{ eos_token }}{% endif %}{% endfor %}",
        ("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        eos="</s>",
    ),
    "phi_end_and_eos": Shape(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        ("</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        eos="</s>",
    ),
    "zephyr": Shape(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        ("</s>",),
        eos="</s>",
    ),
    "deepseek_strips_thoughts": Shape(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
        "<｜User｜>{{ m.content }}{% else %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}<｜end｜>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<｜Assistant｜>{% endif %}",
        ("<s>", "<｜end｜>"),
        ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
        eos="<｜end｜>",
    ),
    "qwen_thinking": Shape(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n"
        "{{ m.reasoning_content | default('') }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        + _CHATML_PROMPT,
        _IM,
        ("<think>", "</think>"),
    ),
    "opened_thoughts": Shape(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n"
        "{{ m.reasoning_content | default('') }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
        _IM,
        ("<think>", "</think>"),
    ),
    "harmony": Shape(
        "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}"
        "<|message|>{{ m.content }}{{ '<|return|>' if m.role == 'assistant' and loop.last else '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
        ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"),
    ),
    "tool_calling": Shape(
        "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for call in m.tool_calls or [] %}"
        "<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}" + _CHATML_PROMPT,
        _IM,
        ("<tool_call>", "</tool_call>"),
    ),
    "strips": Shape(
        "{% for m in messages %}### {{ m.role }}:\n{{ m.content | trim }}\n{% if m.role == 'assistant' %}"
        "{{ eos_token }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}### assistant:\n{% endif %}",
        ("</s>",),
        eos="</s>",
    ),
    "ends_in_text": Shape(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n---\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    ),
    "dates_itself": Shape(
        "<|im_start|>system\nToday is {{ strftime_now('%d %B %Y') }}.<|im_end|>\n" + _CHATML + _CHATML_PROMPT, _IM
    ),
}
