"""Rewriting of an observed network into a smaller one, whose nodes have only the channels that depend on the image."""

from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm

from midstate.compaction.cutting import Cut, Response, cut_layer, cut_norm, response
from midstate.compaction.observing import Observed, with_layers
from midstate.compaction.operations import adds_channels, flattened, is_binary, treats_channels_alone
from midstate.compaction.parts import Constants, FixedSize, Select, Spread
from midstate.sparsity.criteria.base import of_inputs

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)  # no subclasses: these may pad or standardise in their own way


class Rewriter:
    """Makes the smaller network.

    Every node that depends on the image is made again, with only its channels `seen.kept(node)`, ascending. Channels
    that do not depend on the image become constants where they are read.

    Args:
        seen: the network's values; its modules are reused, so make one network of it only.
    """

    def __init__(self, seen: Observed) -> None:
        self.seen = seen
        self.root, self.graph = seen.graph, fx.Graph()
        self.made: dict[Node, Node] = {}
        self.arranged: dict[tuple, Node] = {}
        self.cuts: dict[str, nn.Module] = {}
        self.whole: set[str] = set()
        self.shifts: dict[Node, Tensor] = {}  # by layer: for the running mean of the BatchNorm behind it
        self.any_size = True
        self.calls = Counter(node.target for node in self.root.graph.nodes if node.op == "call_module")

    def rewrite(self) -> fx.GraphModule:
        """Make the smaller network.

        Raises:
            ValueError: calls of a module need it both whole and cut, or the output is a constant.
        """
        for node in self.root.graph.nodes:
            if node.op == "output":
                self._refuse_constant(node)
                self.graph.output(fx.node.map_arg(node.args[0], self._all_of))
            elif not self._is_dead(node):
                self.made[node] = self._make(node)
        if both := sorted(self.whole & self.cuts.keys()):
            raise ValueError(f"{both[0]} cannot be extracted: it is called more than once, and not always the same way")
        for name, module in self.cuts.items():
            self.root.set_submodule(name, module)
        if not self.any_size:
            self._fix_size()
        network = with_layers(self.root, self.graph)
        network.graph.eliminate_dead_code()
        network.graph.lint()
        network.delete_all_unused_submodules()
        network.recompile()
        return network

    def _refuse_constant(self, output: Node) -> None:
        if all(self._is_dead(node) for node in output.all_input_nodes):
            raise ValueError("the output no longer depends on the image: pruning has cut the network in two")

    def _is_dead(self, node: Node) -> bool:
        kept = self.seen.kept(node)
        return kept is not None and not len(kept)

    def _make(self, node: Node) -> Node:
        module, kept = self.seen.module(node), self.seen.kept(node)
        source = node.args[0] if node.args and isinstance(node.args[0], Node) else None
        if source and kept is not None and node.target in self.seen.alive:
            if type(module) in _CONVOLUTIONS or isinstance(module, nn.Linear):
                return self._layer(node, module)
            if isinstance(module, _BatchNorm):
                return self._norm(node, module)
        if source in self.made:
            if treats_channels_alone(node, self.seen) and (kept is None or self._keeps(node, self.seen.kept(source))):
                return self._copy(node, source)
            if self._keeps(node, flattened(node, self.seen)):
                return self._copy(node, source)
            if adds_channels(node, self.seen) and self._keeps(node, self.seen.kept(source) + node.args[1][4]):
                return self.made[source]
        if kept is not None and is_binary(node) and (made := self._binary(node)):
            return made
        if kept is not None and node.target in (torch.cat, torch.concat) and (made := self._cat(node)):
            return made
        return self._unknown(node)

    def _keeps(self, node: Node, expected: Tensor | None) -> bool:
        kept = self.seen.kept(node)
        return expected is not None and kept is not None and kept.equal(expected)

    def _copy(self, node: Node, source: Node) -> Node:
        """The same node, reading fewer channels of `source`."""
        return self.graph.node_copy(node, lambda other: self.made[other] if other is source else self._all_of(other))

    def _unknown(self, node: Node) -> Node:
        """A node of any other kind: it reads all channels, and its living output channels are selected."""
        if node.op == "call_module":
            self.whole.add(node.target)
        made, kept = self.graph.node_copy(node, self._all_of), self.seen.kept(node)
        if kept is None or len(kept) == self.seen.size(node):
            return made
        return self._call("select", Select(self.seen.dim(node), kept), made)

    def _layer(self, node: Node, module: nn.Module) -> Node:
        source, dim = node.args[0], self.seen.values[node].dim() - 1 if isinstance(module, nn.Linear) else 1
        alive, kept = self.seen.alive[node.target], self.seen.kept(node)
        inputs = alive.nonzero().flatten()
        reached = (module.weight * of_inputs(module.weight, alive)).flatten(1).any(1)  # at any of its calls
        cut = cut_layer(module, inputs, reached.nonzero().flatten())
        self.cuts.setdefault(node.target, cut.module)
        read = self._arrange(source, dim, cut.inputs)
        made = self.graph.call_module(node.target, (read,))
        where = torch.isin(cut.outputs, kept).nonzero().flatten()
        if len(where) < len(cut.outputs):
            made = self._call("select", Select(self.seen.dim(node), where), made)
        larger = self.seen.larger[source][:1] if self.seen.larger else None
        added = response(module, self.seen.values[source][:1], larger, inputs, kept, dim)
        self.any_size = self.any_size and added.any_size
        if added.module is None or self._folded(node, added, cut, where):
            return made
        return self._call("shift", added.module, made, *([read] if hasattr(added.module, "kernel") else []))

    def _folded(self, node: Node, added: Response, cut: Cut, where: Tensor) -> bool:
        """Fold a contribution into the next BatchNorm, or the bias if as many stay non-zero; tell whether it was."""
        if added.vector is None or self.calls[node.target] > 1:
            return False
        users = list(node.users)
        norm = self.seen.module(users[0]) if len(users) == 1 else None
        if isinstance(norm, _BatchNorm) and self.calls[users[0].target] == 1 and norm.running_mean is not None:
            self.shifts[node] = added.vector
            return True
        if (bias := cut.module.bias) is None:
            return False
        folded = bias.index_add(0, where, added.vector)
        if folded.count_nonzero() != bias.count_nonzero():
            return False
        bias.copy_(folded)
        return True

    def _norm(self, node: Node, norm: _BatchNorm) -> Node:
        channels = self.seen.alive[node.target].nonzero().flatten()
        self.cuts.setdefault(node.target, cut_norm(norm, channels, self.shifts.get(node.args[0])))
        made = self.graph.call_module(node.target, (self._arrange(node.args[0], 1, channels),))
        kept = self.seen.kept(node)
        if kept.equal(channels):
            return made
        return self._call("select", Select(1, torch.isin(channels, kept).nonzero().flatten()), made)

    def _binary(self, node: Node) -> Node | None:
        """A sum, product and so on; each term with the channels of the result."""
        dim, shape = self.seen.dim(node), self.seen.values[node].shape
        terms = [other for other in node.all_input_nodes if isinstance(self.seen.values[other], Tensor)]
        shapes = [self.seen.values[term].shape for term in terms]
        if any(
            len(each) != len(shape) or self.seen.kept(term) is None for term, each in zip(terms, shapes, strict=True)
        ):
            return None
        if not any(each == shape and not self._is_dead(term) for term, each in zip(terms, shapes, strict=True)):
            return None

        def term_of(other: Node) -> Node:
            if other not in terms or self.seen.values[other].shape[dim] != shape[dim]:
                return self._all_of(other)
            return self._arrange(other, dim, self.seen.kept(node))

        return self.graph.node_copy(node, term_of)

    def _cat(self, node: Node) -> Node | None:
        """A concatenation; of each tensor only its channels in the result."""
        sources, kept = node.args[0] if node.args else None, self.seen.kept(node)
        if not isinstance(sources, list | tuple):  # a node that returns a sequence
            return None
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        if dim % self.seen.values[node].dim() != self.seen.dim(node) or None in map(self.seen.kept, sources):
            return None
        pieces, start = [], 0
        for source in sources:
            size = self.seen.values[source].shape[self.seen.dim(node)]
            own = kept[(kept >= start) & (kept < start + size)] - start
            if len(own):
                pieces.append(self._arrange(source, self.seen.dim(node), own))
            start += size
        return pieces[0] if len(pieces) == 1 else self.graph.call_function(torch.cat, (pieces, dim))

    def _all_of(self, node: Node) -> Node:
        """A value with all its channels, as in the whole network."""
        kept = self.seen.kept(node)
        if kept is None:
            return self.made[node]
        if self._is_dead(node):
            self.any_size = False  # the constant has the height and width of these images
            if (node,) not in self.arranged:
                self.arranged[node,] = self._call("constants", Constants(self.seen.values[node][:1]), self._images())
            return self.arranged[node,]
        return self._arrange(node, self.seen.dim(node), torch.arange(self.seen.size(node), device=kept.device))

    def _arrange(self, node: Node, dim: int, index: Tensor) -> Node:
        """Some channels of a value, in a given order, constants among them."""
        kept = self.seen.kept(node)
        if kept is None or dim != self.seen.dim(node):
            whole, size = self._all_of(node), self.seen.values[node].shape[dim]
            same = index.equal(torch.arange(size, device=index.device))
            return whole if same else self._call("select", Select(dim, index), whole)
        if kept.equal(index):
            return self.made[node]
        key = (node, tuple(index.tolist()))
        if key not in self.arranged:
            self.arranged[key] = self._arranged(node, kept, index)
        return self.arranged[key]

    def _arranged(self, node: Node, kept: Tensor, index: Tensor) -> Node:
        dim = self.seen.dim(node)
        places = torch.isin(index, kept).nonzero().flatten()
        taken = torch.searchsorted(kept, index[places])
        if len(places) < len(index):
            constants, any_size = self.seen.constants(node, index)
            self.any_size = self.any_size and any_size
        if not len(places):
            return self._call("constants", Constants(constants), self._images())
        made = self.made[node]
        if not taken.equal(torch.arange(len(kept), device=kept.device)):
            made = self._call("select", Select(dim, taken), made)
        return made if len(places) == len(index) else self._call("spread", Spread(dim, places, constants), made)

    def _images(self) -> Node:
        return next(node for node in self.graph.nodes if node.op == "placeholder")

    def _call(self, kind: str, module: nn.Module, *read: Node) -> Node:
        """Add a module of `parts` to the network, and a node that calls it."""
        number = 0
        while hasattr(self.root, name := f"{kind}_{number}"):
            number += 1
        self.root.add_submodule(name, module)
        return self.graph.call_module(name, read)

    def _fix_size(self) -> None:
        images = self._images()
        with self.graph.inserting_after(images):
            checked = self._call("size", FixedSize(self.seen.shape), images)
        images.replace_all_uses_with(checked, lambda user: user is not checked)
