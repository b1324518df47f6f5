"""Credit fidelity: agreement of a scheme's rewards with the true credit, for worlds that know the truth."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Segments = Sequence[tuple[int, int, float]]  # (start, end, credit) in characters, in order, without overlap


def segment_rewards(token_rewards: Tensor, segments: Segments, offsets: Tensor) -> Tensor:
    """Sum a response's token rewards per segment: (2, n), the sums and the true credits. The response must have ended.

    A token belongs to the first segment that is not over where the token starts, so that blanks count to what follows
    and a token across a border to the earlier segment, whose last character it holds. The last of the n segments is the
    end of the response: its end token, and the credit of whatever starts behind the text. `token_rewards` (T,) are of
    the tokens that count, `offsets` (T, 2) the characters [start, end) of each.
    """
    text = [(start, end, credit) for start, end, credit in segments if end > start]
    ends = torch.tensor([end for _, end, _ in text], device=offsets.device, dtype=offsets.dtype)
    truth = [credit for *_, credit in text] + [sum(credit for start, end, credit in segments if end <= start)]
    place = torch.searchsorted(ends, offsets[:, 0].contiguous(), right=True)
    summed = torch.zeros(len(truth), dtype=torch.float64, device=offsets.device)
    summed.index_add_(0, place, token_rewards.double())
    return torch.stack([summed.cpu(), torch.tensor(truth, dtype=torch.float64)])


def within_correlation(groups: Sequence[Tensor]) -> float | None:
    """Compute Pearson's correlation within groups (2, n): both sides centred per group, then pooled over all groups.

    None where either quantity does not vary within any group.
    """
    centred = [group - group.mean(1, keepdim=True) for group in groups if group.shape[1] > 1]
    if not centred:
        return None
    a, b = torch.cat(centred, dim=1)
    scale = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 1e-12 else None
