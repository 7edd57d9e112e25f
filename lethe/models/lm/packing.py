"""Short sequences side by side in one row, each seeing itself alone: what would be pads is filled with other sequences.

    Where was she born ? Bath . · · · · · ·        two rows of twelve places, nine of them pads
    And he ? Cork . · · · · · · ·
    Where was she born ? Bath . And he ? Cork .    one row: positions start again, the mask is block by block

Every token sees what it sees where its sequence stands alone, so the numbers are the same but for rounding. Not every
architecture takes such a mask; `tried` tries it out. What follows the last token that is asked for is not read at all.
A gain as large as the pads allow, so no default: with a fifth of them NPO took 1 / 1.11 of the time and a look 1 / 1.07
(`python -m speed.language.packing`: 4.3 M weights, batches of 16, one core, n=3; pairs 0.98 to 1.14 and 1.07 to 1.09).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.guard import Guard
from lethe.core.language_guard import shape
from lethe.core.modules import device_of, evaluating
from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.models.lm import decoder
from lethe.models.lm.trees import takes_masks

WORTH = 0.95    # work of packed rows, as a share of that of single rows, above which they are not worth their mask        [ours]
WIDE = (1, 2, 4)   # widths of rows that are tried, in multiples of the longest sequence                                  [ours]
APART = 1e-4    # nats by which a packed token may differ from what it is alone; half precision rounds more                [ours]
HALF = 5e-2
WINDOW = re.compile(r"window(_size)?$|chunk_size$")   # settings that bound how far a token looks back


def rows_of(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Which sequences share a row of this width: the longest first, each in the first row with room.

    rows_of([2, 6, 3, 4], 6) = [[1], [3, 0], [2]]: 6 | 4 + 2 | 3
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for k in sorted(range(len(lengths)), key=lambda k: -lengths[k]):
        place = next((at for at, left in enumerate(room) if left >= lengths[k]), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(width)
        rows[place].append(k)
        room[place] -= lengths[k]
    return rows


def logits_at(model: nn.Module, ids: Tensor, keep: Tensor) -> Tensor:
    """As `decoder.logits_at`, with sequences packed where that saves enough.  -> [K, V]

    Not where something is hooked into the model, which may look at rows, and of models that answer as a whole.
    """
    lengths = (keep.shape[1] - keep.flip(1).int().argmax(1)).mul(keep.any(1)).clamp(min=1).tolist()
    if isinstance(model, Guard) or not takes_masks(model) or _is_hooked(model):
        return decoder.logits_at(model, ids, keep)
    d = int(getattr(shape(model), "hidden_size", 0) or 1)
    work, width, rows = min((_work(len(rows), width, d), width, rows) for width in (k * max(lengths) for k in WIDE)
                            if (rows := rows_of(lengths, width)))
    if work > WORTH * _work(len(ids), ids.shape[1], d):
        return decoder.logits_at(model, ids, keep)
    return _packed(model, ids, keep, lengths, rows, width)


def tried(model: nn.Module, splits: Mapping[str, Split]) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """`logits_at`; RequestError when the model does not predict, of two sequences in one row, what it predicts of each alone, or
    looks less far back than the longest sequence: that would have to be in the mask."""
    longest = max(int(split.columns["length"].max()) for split in splits.values())
    why = "takes no mask and positions of one's own"
    windows = [value for key, value in vars(shape(model)).items() if WINDOW.search(key) and type(value) is int]
    if takes_masks(model):
        size = len(cast(Tensor, decoder.head(model).weight))
        ids = torch.arange(3, 27, device=device_of(model)).view(2, 12) % size
        keep = torch.ones_like(ids, dtype=torch.bool)
        keep[1, 7:] = False
        with evaluating(model):
            alone = torch.cat([decoder.logits_at(model, ids[k : k + 1], keep[k : k + 1]) for k in range(2)])
            both = _packed(model, ids, keep, [12, 7], [[0, 1]], 19)
        found, wanted = (torch.log_softmax(logits.float(), -1) for logits in (both, alone))
        apart = float((found - wanted).abs().max())
        if apart <= (APART if next(model.parameters()).dtype == torch.float32 else HALF):
            if not windows or min(windows) >= longest:
                return logits_at
            why = f"looks {min(windows)} tokens back, and sequences may have {longest}: the mask of packed rows has no window"
        else:
            why = f"predicts otherwise by up to {apart:.2g} nats where another sequence stands in the row"
    raise RequestError(f"model.packing puts several sequences into one row, but a {type(model).__name__} {why}; nothing was "
                       "started. Leave model.packing out.")


def _work(rows: int, width: int, d: int) -> float:
    """Of a pass, in places: a place costs about 24·d² in the matrices of a block of width d and 4·d·width in attention."""
    return rows * width * (1 + width / (6 * d))


def _is_hooked(model: nn.Module) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def _packed(model: nn.Module, ids: Tensor, keep: Tensor, lengths: Sequence[int], rows: Sequence[Sequence[int]], width: int
            ) -> Tensor:
    """Logits where `keep` is true, in the order of the sequences, of one pass over rows of this width."""
    source = np.zeros((len(rows), width), dtype=np.int64)   # place in ids that stands here
    places, owner = np.zeros_like(source), np.full_like(source, -1)
    for row, some in enumerate(rows):
        at = 0
        for k in some:
            end = at + lengths[k]
            source[row, at:end] = k * ids.shape[1] + np.arange(lengths[k])
            places[row, at:end], owner[row, at:end] = np.arange(lengths[k]), k
            at = end
    device, kind = ids.device, next(p.dtype for p in model.parameters() if p.is_floating_point())
    where, whose = torch.from_numpy(source).to(device), torch.from_numpy(owner).to(device)
    sees = (whose.unsqueeze(2) == whose.unsqueeze(1)).tril()   # pads see pads before them and themselves
    mask = torch.zeros(sees.shape, dtype=kind, device=device).masked_fill_(~sees, torch.finfo(kind).min).unsqueeze(1)
    asked = keep.flatten()[where] & (whose >= 0)
    logits = decoder.logits_at(model, ids.flatten()[where], asked, attention_mask=mask,
                               position_ids=torch.from_numpy(places).to(device))
    return logits[where[asked].argsort()]
