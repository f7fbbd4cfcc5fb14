"""Regression trees as plain tensors, evaluated for many rows at once without the library that grew them.

Shape suffixes: N rows, T trees, K inner nodes of a tree, S slots of a tree (K inner nodes and K + 1 leaves).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# Rows that go through all trees at once, so that the nodes they stand at stay in the processor's cache.
_ROWS_AT_ONCE = 1000
# Limits for damaged or hostile artifacts, more than anyone needs.
_MOST_TREES, _MOST_LEAVES = 10_000, 1024
_NAMES = ("feature", "threshold", "left", "right", "value")


class Forest(nn.Module):
    """A sum of regression trees.

    A row begins at node 0 of each tree. At an inner node it goes to the left if its feature is at most the
    threshold, else to the right. The nodes of a tree are numbered so that each child has a larger number than
    its parent: every path ends. Trees with fewer nodes than the largest are padded with nodes that no row
    reaches.

    Parameters
    ----------
    features:
        Number of features of a row.

    Attributes
    ----------
    feature, threshold, left, right:
        float32 [T, K]. A child of 0 or more is an inner node; -1 is leaf 0, -2 is leaf 1 and so on.
    value:
        float32 [T, K + 1]: the values of the leaves.
    width:
        float32 [1]: the number of features, so that trees over other features are noticed.
    """

    width: Tensor
    feature: nn.Parameter
    threshold: nn.Parameter
    left: nn.Parameter
    right: nn.Parameter
    value: nn.Parameter

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("width", torch.tensor([float(features)]))
        for name in _NAMES:
            empty = torch.empty(0, int(name == "value"))
            self.register_parameter(name, nn.Parameter(empty, requires_grad=False))
        self.depth = 0
        self._slots: tuple[Tensor, ...] = ()

    @property
    def count(self) -> int:
        """Number of trees."""
        return len(self.value)

    def grow(self, trees: Mapping[str, Tensor]) -> None:
        """Take over trees, given as the attributes of the class.

        Raises
        ------
        ValueError
            When they are no trees over the features.
        """
        self._check(trees)
        for name in _NAMES:
            self.register_parameter(name, nn.Parameter(trees[name].detach().float(), requires_grad=False))
        self.depth, self._slots = self._depth(), ()

    def forward(self, rows_NF: Tensor) -> Tensor:  # noqa: N803
        """The sum over the trees for each row, float32 [N]; 0 without trees."""
        if not self.count:
            return rows_NF.new_zeros(len(rows_NF))
        if not self._slots or self._slots[0].device != rows_NF.device:
            self._slots = tuple(slot.to(rows_NF.device) for slot in self._as_slots())
        return torch.cat([self._sums(rows) for rows in torch.split(rows_NF, _ROWS_AT_ONCE)])

    def _sums(self, rows_NF: Tensor) -> Tensor:  # noqa: N803
        feature, threshold, child, value = self._slots
        size, trees = len(rows_NF), self.count
        # index_select with int32 is several times as fast as indexing with int64.
        first = torch.arange(size, dtype=torch.int32, device=rows_NF.device) * self.features
        first = first[:, None].expand(size, trees).flatten()
        root = torch.arange(trees, dtype=torch.int32, device=rows_NF.device) * (len(value) // trees)
        at, flat = root.repeat(size), rows_NF.flatten()
        for _ in range(self.depth):
            seen = flat.index_select(0, first + feature.index_select(0, at))
            right = seen > threshold.index_select(0, at)
            at = child.index_select(0, 2 * at + right)
        return value.index_select(0, at).view(size, trees).sum(dim=1)

    def _as_slots(self) -> tuple[Tensor, ...]:
        """Feature, threshold, children and value of all slots; a leaf is its own child."""
        trees, inner = self.feature.shape
        slots = 2 * inner + 1
        begin = (torch.arange(trees) * slots)[:, None]
        itself = (begin + torch.arange(slots))[..., None].repeat(1, 1, 2)
        children = torch.stack([self.left, self.right], dim=2).cpu().long()
        itself[:, :inner] = children.where(children >= 0, inner - 1 - children) + begin[..., None]
        leaves = torch.zeros(trees, inner + 1)
        return (
            torch.cat([self.feature.cpu(), leaves], dim=1).flatten().int(),
            torch.cat([self.threshold.cpu(), leaves], dim=1).flatten(),
            itself.flatten().int(),
            torch.cat([torch.zeros(trees, inner), self.value.cpu()], dim=1).flatten(),
        )

    def _depth(self) -> int:
        """Inner nodes on the longest path of any tree."""
        trees, inner = self.feature.shape
        depth = torch.zeros(trees, inner, dtype=torch.int32)
        if not trees or not inner:
            return 0
        depth[:, 0] = 1
        every = torch.arange(trees)
        children = torch.stack([self.left, self.right]).cpu().long()
        for node in range(inner):
            for child in children[:, :, node]:
                below = torch.where((child >= 0) & (depth[:, node] > 0), depth[:, node] + 1, 0)
                to = child.clamp_min(0)
                depth[every, to] = torch.maximum(depth[every, to], below.int())
        return int(depth.max())

    def _check(self, trees: Mapping[str, Tensor]) -> None:
        if {*trees} != {*_NAMES}:
            raise ValueError(f"trees are given as {', '.join(_NAMES)}, not as {', '.join(map(str, trees))}")
        shape = trees["value"].shape
        inner = (shape[0], shape[1] - 1) if len(shape) == 2 else None
        if inner is None or inner[1] < 0 or any(trees[name].shape != inner for name in _NAMES[:-1]):
            raise ValueError("the tensors of the trees do not have the same number of trees and nodes")
        if shape[0] > _MOST_TREES or shape[1] > _MOST_LEAVES:
            raise ValueError(
                f"{shape[0]:,} trees of {shape[1]:,} leaves; at most {_MOST_TREES:,} of {_MOST_LEAVES:,}"
            )
        if not all(bool(torch.isfinite(tensor).all()) for tensor in trees.values()):
            raise ValueError("the trees have values that are not finite")
        number = torch.arange(inner[1])
        for name, least, most in (
            ("feature", 0, self.features - 1),
            ("left", -inner[1] - 1, inner[1] - 1),
            ("right", -inner[1] - 1, inner[1] - 1),
        ):
            tensor = trees[name].float()
            if bool(((tensor != tensor.round()) | (tensor < least) | (tensor > most)).any()):
                raise ValueError(f"{name} of the trees is not whole numbers from {least} to {most}")
            # A child before its parent could lead in a circle.
            if name != "feature" and bool(((tensor >= 0) & (tensor <= number)).any()):
                raise ValueError(f"{name} of the trees leads back to an earlier node")

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take over any number of trees; torch's own method wants the shapes of now."""
        given = {name: state_dict[prefix + name] for name in _NAMES if prefix + name in state_dict}
        width = state_dict.get(prefix + "width")
        if width is not None and len(given) == len(_NAMES):
            if width.shape != (1,) or float(width) != self.features:
                error_msgs.append(f"its trees are not over the {self.features} features of this version")
                return
            try:
                self.grow(given)
            except ValueError as error:
                error_msgs.append(str(error))
            self.width = width
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
