"""Damaged Python, and the bridges that have to notice each damage."""

from __future__ import annotations

from dataclasses import replace

from qkvtheory import absorption, gauge, lossless, norms, queries, rotations, stacks, tying
from qkvtheory.lanes import bridge


def forgotten_inverse(attention, theta, phi=None):
    new = gauge.change_basis(attention, theta, phi)
    return replace(new, W_K=attention.W_K)


def basis_in_place_of_its_inverse(attention, theta, phi=None):
    return replace(gauge.change_basis(attention, theta, phi), W_V=theta @ attention.W_V)


def output_not_moved(block, enter, leave):
    new = gauge.rebase(block, enter, leave)
    return replace(new, attention=replace(new.attention, W_O=block.attention.W_O))


def other_basis_returned(attention, which):
    theta, new = gauge.reparametrize(attention, which)
    return theta @ theta, new


def other_core(attention, theta, phi=None):
    new = gauge.change_basis(attention, theta, phi)
    return replace(new, core=lambda q, k, v: attention.core(q, k, v + v))


def query_bias_moved(attention, theta, phi=None):
    new = gauge.change_basis(attention, theta, phi)
    return new if new.b_Q is None else replace(new, b_Q=new.b_Q + new.b_Q)


def bias_dropped(attention, which):
    theta, new = gauge.reparametrize(attention, which)
    return theta, replace(new, b_V=None)


def cross_bias_dropped(attention, which):
    theta, phi, new = gauge.reparametrize_cross(attention, which)
    return theta, phi, replace(new, b_V=None)


def other_cross_basis_returned(attention, which):
    theta, phi, new = gauge.reparametrize_cross(attention, which)
    return theta, phi @ phi, new


def merged_the_other_way(attention):
    return replace(gauge.merge_single_head(attention), W_K=attention.W_Q @ attention.W_K.mT)


def written_bias_left(block, enter, leave):
    new = gauge.rebase(block, enter, leave)
    return replace(new, attention=replace(new.attention, b_O=block.attention.b_O))


def reads_doubled(back, *weights):
    return tuple(2 * weight for weight in gauge.reads(back, *weights))


def reads_cut_short(back, *weights):
    return gauge.reads(back, *weights)[1:]


def carried_doubled(row, basis):
    return 2 * gauge.carried(row, basis)


def positions_left(row, basis):
    return row


def other_basis_selected(attention, which):
    theta, new = gauge.select_columns(attention, which)
    return 2 * theta, new


def columns_not_selected(attention, which):
    theta, _ = gauge.select_columns(attention, which)
    return theta, gauge.change_basis(attention, theta)


def first_columns_for_the_values(attention, which):
    theta, new = gauge.select_columns(attention, which)
    return theta, replace(new, W_V=new.W_K)


def embedding_left(network):
    return replace(stacks.eliminate_queries(network), embedding=network.embedding)


def every_block_leaves_in_its_own_basis(network):
    new = stacks.eliminate_queries(network)
    blocks = [gauge.rebase(b, b.attention.W_Q, b.attention.W_Q) for b in network.blocks]
    return replace(new, blocks=blocks)


def one_block_twice(network):
    new = stacks.eliminate_queries(network)
    return replace(new, blocks=[new.blocks[0], new.blocks[0]])


class PositionsForgotten(bridge.Code().Network):
    def __call__(self, tokens):
        return super().__call__(tokens) if self.positions is None else replace(self, positions=None)(tokens)


class KeysFromTheStream(bridge.Code().Attention):
    """Cross-attention that forgets its memory."""

    def __call__(self, x, memory=None):
        return super().__call__(x)


class OutputTwice(bridge.Code().Attention):
    def __call__(self, x, memory=None):
        y = super().__call__(x, memory)
        return y + y


class SkipAnyway(bridge.Code().Block):
    def __call__(self, x, memory=None):
        return x + super().__call__(x, memory)


class NoSkip(bridge.Code().Block):
    def __call__(self, x, memory=None):
        return self.mlp(self.attention(x))


class Serial(bridge.Code().Block):
    """A parallel block run one after the other."""

    def __call__(self, x, memory=None):
        return super().__call__(x, memory) if not self.parallel else replace(self, parallel=False)(x)


class NormAfterwards(bridge.Code().Block):
    """The norm of the MLP on what it wrote, not on what it reads."""

    def __call__(self, x, memory=None):
        y = replace(self, mlp_norm=None)(x, memory)
        return y if self.mlp_norm is None else self.mlp_norm(y)


class CrossFromTheStart(bridge.Code().Block):
    """Cross-attention that reads the stream before self-attention."""

    def __call__(self, x, memory=None):
        if self.cross is None:
            return super().__call__(x)
        y = x + self.attention(x) + self.cross(x, memory)
        return y + self.mlp(y)


class TiedWithoutTranspose(bridge.Code().Network):
    def __call__(self, tokens, memory=None):
        return self.stream(tokens, memory) @ (self.embedding if self.readout is None else self.readout)


def bases_shifted(network, bases):
    """Every state in the basis of the one before it."""
    return stacks.carry(network, [bases[0], *bases[:-1]])


def middle_forgotten(network, bases):
    return stacks.carry(network, [None if k % 2 else basis for k, basis in enumerate(bases)])


def biases_of_writes_left(network, bases):
    new = stacks.carry(network, bases)
    pairs = zip(network.blocks, new.blocks, strict=True)
    return replace(new, blocks=[replace(b, mlp=replace(b.mlp, b_down=a.mlp.b_down)) for a, b in pairs])


def norms_dropped(network, bases):
    new = stacks.carry(network, bases)
    return replace(new, blocks=[replace(b, attention_norm=None, mlp_norm=None) for b in new.blocks])


def readout_left(network, theta, memory=None):
    return replace(stacks.conjugate(network, theta, memory), readout=network.readout)


def memory_left(network, theta, memory=None):
    return stacks.conjugate(network, theta)


def keys_left(network, which, layers=None):
    """Keys that are read as before."""
    new = stacks.eliminate(network, which, layers)
    pairs = zip(network.blocks, new.blocks, strict=True)
    blocks = [replace(b, attention=replace(b.attention, W_K=a.attention.W_K)) for a, b in pairs]
    return replace(new, blocks=blocks)


def output_bias_lost(network):
    new = stacks.merge_outputs(network)
    return replace(new, blocks=[replace(b, mlp=replace(b.mlp, b_up=None)) for b in new.blocks])


def skip_left(network):
    new = stacks.remove_learned_skips(network)
    return replace(new, blocks=[replace(new.blocks[0], mlp_skip=False)])


def first_basis_left(network):
    return replace(stacks.remove_learned_skips(network), embedding=network.embedding)


def keys_turned_the_other_way(attention, shared):
    new = gauge.align_heads(attention, shared)
    return replace(new, W_K=attention.W_K @ (shared.inverse() @ attention.W_Q))


def third_projection_left(attention, which):
    theta, new = gauge.reparametrize(attention, which)
    return theta, replace(new, W_V=attention.W_V)


def keys_turned_like_queries(attention, keys=None, values=None):
    return replace(gauge.turn_heads(attention, keys, values), W_K=attention.W_K @ keys)


def key_bias_left(attention, keys=None, values=None):
    return replace(gauge.turn_heads(attention, keys, values), b_K=attention.b_K)


def only_weights_tied(attention, keep):
    return replace(tying.tie_after(attention, keep), b_K=attention.b_K, b_V=attention.b_V)


def keys_tied_queries_left(attention):
    return replace(lossless.keys_in_values(attention), W_Q=attention.W_Q)


def outputs_not_absorbed(layer, n):
    return replace(lossless.absorbed(layer, n), W_O=layer.W_O)


def keys_bias_forgotten(layer):
    return replace(lossless.slim(layer), b_KV=layer.b_V)


def sums_of_the_next(tokens):
    tokens = list(tokens)
    return tying.tied_sums([*tokens[1:], tokens[0]])


class ValuesAreTheLatent(bridge.Code().Latent):
    def attention(self, n):
        return replace(super().attention(n), W_V=self.W_C)


class KeysRecalled(bridge.Code().Slim):
    """A cache that hands out its keys as values."""

    def recalled(self, stored):
        return stored * 2


class WrittenTwice(bridge.Code().MLP):
    def __call__(self, x):
        y = super().__call__(x)
        return y + y


def flipped_bias_left(mlp, units=None, c=None):
    return replace(absorption.flip(mlp, units, c), b_down=mlp.b_down)


def bias_not_taken_back(mlp, M):
    return replace(absorption.onto_identity(mlp, M), b_down=mlp.b_down)


def other_map_absorbed(mlp, M, c=None):
    return absorption.spare_units(mlp, M + M, c)


def chosen_units_left(mlp, M, c=None):
    return replace(absorption.spare_units_sharp(mlp, M, c), W_down=mlp.W_down)


def embedding_of_before(network, c=None):
    return replace(absorption.eliminate_with_spare_units(network, c), embedding=network.embedding)


def gains_left(network):
    new = norms.fold_gains(network)
    return replace(new, blocks=[replace(b, mlp=a.mlp) for a, b in zip(network.blocks, new.blocks, strict=True)])


def output_bias_not_centered(network):
    new = norms.center(network)
    pairs = zip(network.blocks, new.blocks, strict=True)
    return replace(new, blocks=[replace(b, mlp=replace(b.mlp, b_down=a.mlp.b_down)) for a, b in pairs])


def readout_not_rotated(network, bases, memory=None):
    return replace(rotations.rotate(network, bases, memory), readout=network.readout)


def second_layer_not_turned(network, layers=None, factors=None):
    new = rotations.to_triangular(network, layers, factors)
    return replace(new, blocks=[*new.blocks[:-1], network.blocks[-1]])


def keys_not_turned(network, layers=None, factors=None):
    new, old = rotations.to_block_triangular(network, layers, factors), rotations.rotate(network, factors[0].basis)
    (block,), (kept,) = new.blocks, old.blocks
    return replace(new, blocks=[replace(block, attention=replace(block.attention, W_K=kept.attention.W_K))])


def learned_skips_doubled(network):
    new = stacks.learned_skips(network)
    return replace(new, blocks=[replace(b, mlp_skip=b.mlp_skip + b.mlp_skip) for b in new.blocks])


class MeanLeft(norms.LayerNorm):
    def __call__(self, x):
        return norms.RMSNorm(self.gain, self.eps, self.scale)(x) + (0 * x if self.bias is None else self.bias)


class GainBefore(norms.RMSNorm):
    """The gain on what the norm reads."""

    def __call__(self, x):
        return norms.normalized(norms.gained(x, self.gain), self)


class BiasBeforeReadout(bridge.Code().Network):
    """A bias of the readout added twice."""

    def __call__(self, tokens, memory=None):
        y = super().__call__(tokens, memory)
        return y if self.readout_bias is None else y + self.readout_bias


class IdentityForgotten(queries.ResidualQuery):
    def __call__(self, x):
        return self.added(x)


class NormBehind(queries.ResidualQuery):
    """The norm on what the query writes, not on what it reads."""

    def __call__(self, x):
        return x + self.inner_norm(self.act(x @ self.W_1) @ self.W_2)


class StreamAsks(queries.QueryAttention):
    """It asks with the stream itself."""

    def __call__(self, x, memory=None):
        return queries.with_matrix(self, x.identity("d"))(x)


def keys_of_a_query_left(attention, theta):
    return replace(queries.rebase_query(attention, theta), W_K=attention.W_K)


def query_left(attention, theta):
    return replace(queries.rebase_query(attention, theta), query=attention.query)


SKIPPING = ("run_block", "run_block_mlp_skip", "run_block_both_skips", "run_block_biased", "run_stage", "run_stack")
SKIPPING += ("run_learned", "run_linear")
DAMAGED = {
    "change_basis": (bridge.Code(change_basis=forgotten_inverse), ("change_basis", "change_bases")),
    "theta for its inverse": (bridge.Code(change_basis=basis_in_place_of_its_inverse), ("change_basis",)),
    "core": (bridge.Code(change_basis=other_core), ("change_basis",)),
    "biases": (bridge.Code(change_basis=query_bias_moved), ("change_basis_biases",)),
    "reparametrize": (bridge.Code(reparametrize=other_basis_returned), ("eliminate_q", "eliminate_k", "eliminate_v")),
    "bias of an elimination": (
        bridge.Code(reparametrize=bias_dropped),
        ("eliminate_q_biases", "eliminate_k_biases", "eliminate_v_biases", "wide_query_biases"),
    ),
    "bias of a cross-elimination": (
        bridge.Code(reparametrize_cross=cross_bias_dropped),
        ("cross_qk_biases", "cross_qv_biases"),
    ),
    "biases with two bases": (bridge.Code(change_basis=query_bias_moved), ("change_bases_biases",)),
    "reads": (bridge.Code(reads=reads_doubled), ("reads",)),
    "a read missing": (bridge.Code(reads=reads_cut_short), ("reads",)),
    "carried": (bridge.Code(carried=carried_doubled), ("positions",)),
    "positions left": (bridge.Code(carried=positions_left), ("positions",)),
    "positions forgotten": (bridge.Code(Network=PositionsForgotten), ("run_network",)),
    "selected basis": (bridge.Code(select_columns=other_basis_selected), ("select_kv",)),
    "columns not selected": (bridge.Code(select_columns=columns_not_selected), ("select_k",)),
    "columns of others": (bridge.Code(select_columns=first_columns_for_the_values), ("select_k", "select_kv")),
    "embedding": (bridge.Code(eliminate_queries=embedding_left), ("eliminate_queries",)),
    "leaving basis": (bridge.Code(eliminate_queries=every_block_leaves_in_its_own_basis), ("eliminate_queries",)),
    "one block twice": (bridge.Code(eliminate_queries=one_block_twice), ("eliminate_queries_biases",)),
    "rebase": (bridge.Code(rebase=output_not_moved), ("rebase",)),
    "memory": (bridge.Code(Attention=KeysFromTheStream), ("cross",)),
    "skip": (bridge.Code(Block=NoSkip), SKIPPING),
    "skip that is not there": (bridge.Code(Block=SkipAnyway), ("run_block_no_skips",)),
    "output": (bridge.Code(Attention=OutputTwice), ("mha", "mha_biased")),
    "basis of a cross-elimination": (
        bridge.Code(reparametrize_cross=other_cross_basis_returned),
        ("cross_qk", "cross_qv"),
    ),
    "one head": (bridge.Code(merge_single_head=merged_the_other_way), ("merge_single_head",)),
    "bias of a write": (bridge.Code(rebase=written_bias_left), ("rebase_biases",)),
    "parallel": (bridge.Code(Block=Serial), ("run_stage",)),
    "norm": (bridge.Code(Block=NormAfterwards), ("run_stage",)),
    "cross-attention": (bridge.Code(Block=CrossFromTheStart), ("run_decoder",)),
    "memory of a decoder": (bridge.Code(Attention=KeysFromTheStream), ("run_decoder",)),
    "tied readout": (bridge.Code(Network=TiedWithoutTranspose), ("run_stack",)),
    "bases": (
        bridge.Code(carry=bases_shifted),
        ("carry_skipless", "carry_attention_skip", "carry_mlp_skip", "carry_parallel", "carry_norms"),
    ),
    "middle": (bridge.Code(carry=middle_forgotten), ("carry_skipless", "carry_norms")),
    "biases of a stack": (bridge.Code(carry=biases_of_writes_left), ("carry_skipless", "carry_parallel")),
    "norms of a stack": (bridge.Code(carry=norms_dropped), ("carry_norms",)),
    "readout": (bridge.Code(conjugate=readout_left), ("conjugate",)),
    "basis of the memory": (bridge.Code(conjugate=memory_left), ("conjugate_decoder",)),
    "keys left": (
        bridge.Code(eliminate=keys_left),
        (
            "eliminate_skipless",
            "eliminate_attention_skip",
            "eliminate_mlp_skip",
            "eliminate_parallel",
            "eliminate_keys",
            "eliminate_values",
            "eliminate_mixed",
            "eliminate_tied",
            "one_layer",
            "shared_queries",
        ),
    ),
    "output bias": (bridge.Code(merge_outputs=output_bias_lost), ("merge_outputs",)),
    "outputs not merged": (bridge.Code(merge_outputs=lambda network: network), ("merge_outputs",)),
    "a learned skip": (bridge.Code(remove_learned_skips=skip_left), ("learned_skips",)),
    "basis before a learned skip": (bridge.Code(remove_learned_skips=first_basis_left), ("learned_skips",)),
    "heads": (bridge.Code(align_heads=keys_turned_the_other_way), ("align_heads",)),
    "projections": (bridge.Code(reparametrize=third_projection_left), ("projections_left", "wide_query")),
    "keys of a head": (bridge.Code(turn_heads=keys_turned_like_queries), ("turn_heads",)),
    "key bias of a head": (bridge.Code(turn_heads=key_bias_left), ("turn_heads",)),
    "biases tied": (bridge.Code(tie_after=only_weights_tied), ("tie_after",)),
    "queries of tied keys": (
        bridge.Code(keys_in_values=keys_tied_queries_left),
        ("keys_in_values", "keys_in_square_values"),
    ),
    "latent": (bridge.Code(Latent=ValuesAreTheLatent), ("latent",)),
    "absorbed": (bridge.Code(absorbed=outputs_not_absorbed), ("absorbed",)),
    "slim": (bridge.Code(slim=keys_bias_forgotten), ("slim",)),
    "recalled": (bridge.Code(Slim=KeysRecalled), ("run_slim",)),
    "gains": (bridge.Code(fold_gains=gains_left), ("fold_gains",)),
    "means": (bridge.Code(center=output_bias_not_centered), ("center",)),
    "rotation": (bridge.Code(rotate=readout_not_rotated), ("rotate",)),
    "basis of a tied readout": (bridge.Code(conjugate=lambda network, theta: network), ("rotate_tied",)),
    "triangles": (bridge.Code(to_triangular=second_layer_not_turned), ("to_triangular",)),
    "keys of block triangles": (bridge.Code(to_block_triangular=keys_not_turned), ("to_block_triangular",)),
    "learned skips": (bridge.Code(learned_skips=learned_skips_doubled), ("repaired",)),
    "mean of LayerNorm": (bridge.Code(LayerNorm=MeanLeft), ("layer_norm",)),
    "gain of RMSNorm": (bridge.Code(RMSNorm=GainBefore), ("rms_norm",)),
    "bias of a readout": (bridge.Code(Network=BiasBeforeReadout), ("run_last",)),
    "identity beside a query": (bridge.Code(ResidualQuery=IdentityForgotten), ("residual_query", "ask")),
    "norm inside a query": (bridge.Code(ResidualQuery=NormBehind), ("residual_query", "ask")),
    "query of a sublayer": (bridge.Code(QueryAttention=StreamAsks), ("ask",)),
    "keys of a query": (bridge.Code(rebase_query=keys_of_a_query_left), ("rebase_query",)),
    "query in its old basis": (bridge.Code(rebase_query=query_left), ("rebase_query",)),
    "tokens": (bridge.Code(tied_sums=sums_of_the_next), ("tied_sums",)),
    "units": (bridge.Code(MLP=WrittenTwice), ("run_units",)),
    "flipped units": (bridge.Code(flip=flipped_bias_left), ("flip",)),
    "bias behind an inverse": (bridge.Code(onto_identity=bias_not_taken_back), ("onto_identity",)),
    "spare units": (bridge.Code(spare_units=other_map_absorbed), ("spare_units",)),
    "units turned and doubled": (bridge.Code(spare_units_sharp=chosen_units_left), ("spare_units_sharp",)),
    "spare units of a network": (bridge.Code(eliminate_with_spare_units=embedding_of_before), ("spare_network",)),
}
