"""Convert TRL's limits of length: TRL's are of prompt and response together. Imports no torch."""

from typing import Any

from align.cli.conversion import Conversion
from align.cli.quoting import quoted
from align.cli.trl_steps import number


def length(out: Conversion, field: str, value: Any) -> None:
    """Convert the tokens of prompt and response together: align's limits are one for each."""
    if value is None:
        return out.leave_out(field, "null; the limits stay at data.max_prompt_tokens and data.max_response_tokens")
    prompt = out.old.get("max_prompt_length")
    if prompt is not None:
        left = int(number(out, field, 0) - number(out, "max_prompt_length", 0))
        return out.set(field, "data.max_response_tokens", left, "what max_prompt_length leaves")
    if field not in out.given:
        what = f"TRL's {value} are of prompt and response together; here each gets up to 1024, as the context allows"
        return out.leave_out(field, what)
    out.keys["data.max_prompt_tokens"] = quoted(value)
    note = f"data.max_prompt_tokens={value} too: TRL's is of both together"
    if out.method == "reward_model":
        note += ", and leaves out what is longer; here responses are cut"
    out.set(field, "data.max_response_tokens", value, note)


def prompt_length(out: Conversion, field: str, value: Any) -> None:
    """Convert the limit of a prompt, of which TRL kept the last tokens."""
    if value is None:
        return out.leave_out(field, "null")
    out.keys["data.long_prompts"] = "truncate"
    out.set(field, "data.max_prompt_tokens", value, "data.long_prompts=truncate keeps the last tokens, as TRL's did")
