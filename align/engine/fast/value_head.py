"""The fast engine's value head: scores of the reference, without reading padding where that applies."""

from torch import Tensor

from align.engine.fast import packed_rows
from align.engine.fast.packed_rows import Packed
from align.engine.reference import ValueHead
from align.functional.masked import scattered


class FastValueHead(ValueHead):
    """Reads rows as one without their padding, where the body takes it."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        packed = Packed.of_rows_alone(input_ids, attention_mask) if packed_rows.why_not(self.body) is None else None
        if packed is None:
            return super().forward(input_ids, attention_mask)
        return scattered(self.scores(**packed.arguments()).squeeze(0), attention_mask.bool())
