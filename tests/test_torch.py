"""PyTorch: the same code gives the same numbers as NumPy, as PyTorch's own attention and as models of other people.

Models come with random weights and need no download.
"""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from qkvtheory.attention import Heads, causal, rms_norm, softmax
from qkvtheory.errors import ConditionWarning, HypothesisError
from qkvtheory.gauge import change_basis, reparametrize
from qkvtheory.lanes.settings import FLOAT, top_k
from qkvtheory.lanes.worlds import Floats
from qkvtheory.linalg import complete_basis, condition, identity, inverse, right_inverse
from qkvtheory.network import Attention
from qkvtheory.positions import alibi, rope

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
WEIGHTS = [f"{kind}_{letter}" for kind in "Wb" for letter in "QKVO"]
TIGHT = 1e-13


def tensor(a, dtype=torch.float64):
    return torch.from_numpy(np.ascontiguousarray(a)).to(dtype)


def in_torch(a: Attention, dtype=torch.float64) -> Attention:
    return replace(a, **{name: tensor(w, dtype) for name in WEIGHTS if (w := getattr(a, name)) is not None})


def gap(left, right) -> float:
    left, right = (np.asarray(a.detach().double() if isinstance(a, torch.Tensor) else a) for a in (left, right))
    assert left.shape == right.shape and np.abs(right).max() > 0
    return float(np.abs(left - right).max() / np.abs(right).max())


def sublayer(seed=0, d=16, kv=16, out=16, core=None):
    rng = np.random.default_rng(seed)
    shapes = [(d, d), (d, kv), (d, kv), (d, out)]
    return Attention(core or Heads(4), *(rng.normal(size=shape) / 4 for shape in shapes))


def tokens(n=6, d=16, seed=1):
    return np.random.default_rng(seed).normal(size=(n, d))


# -- PyTorch and NumPy -------------------------------------------------------------------------------------------------


IN_TORCH = [
    setting for setting in FLOAT if setting.features(setting).get("pattern") is not top_k
]  # it sorts with NumPy


@pytest.mark.parametrize("setting", IN_TORCH, ids=lambda s: s.name)
def test_torch_equals_numpy(setting):
    world = Floats(setting, seed=3)
    a, x = world.attention(), world.matrix("X", "n", "d")
    assert gap(in_torch(a)(tensor(x)), a(x)) < TIGHT


@pytest.mark.parametrize("setting", IN_TORCH, ids=lambda s: s.name)
def test_the_lemma_on_tensors(setting):
    """``change_basis`` of tensors: the same weights as in NumPy, and the same function."""
    world = Floats(setting, seed=3)
    a, x, theta = world.attention(), world.matrix("X", "n", "d"), world.invertible("Theta", "d")
    moved, expected = change_basis(in_torch(a), tensor(theta)), change_basis(a, theta)
    assert gap(moved.W_K, expected.W_K) < world.tolerance
    assert gap(moved(tensor(x @ theta)), a(x)) < world.tolerance


def test_top_two_attention_with_a_pattern_of_torch():
    """The one setting left out above, with its pattern written for tensors."""

    def pattern(scores, keep=None):
        return softmax(scores, scores >= scores.topk(2).values[..., -1:])

    (setting,) = set(FLOAT) - set(IN_TORCH)
    world = Floats(setting, seed=3)
    a, x = world.attention(), world.matrix("X", "n", "d")
    assert gap(replace(in_torch(a), core=setting.core(pattern=pattern))(tensor(x)), a(x)) < TIGHT


# -- PyTorch's own attention -------------------------------------------------------------------------------------------


def qkv(groups=4, n=6, heads=4, width=4):
    rng = np.random.default_rng(2)
    return [tensor(rng.normal(size=(n, h * width))) for h in (heads, groups, groups)]


def theirs(q, k, v, heads=4, groups=4, **options):
    def split(z, h):
        return z.reshape(len(z), h, -1).transpose(0, 1)[None]

    out = torch.nn.functional.scaled_dot_product_attention(
        split(q, heads), split(k, groups), split(v, groups), **options
    )
    return out[0].transpose(0, 1).reshape(len(q), -1)


@pytest.mark.parametrize("mask", [None, "causal", "random"])
@pytest.mark.parametrize("groups", [4, 2, 1])
def test_equals_scaled_dot_product_attention(groups, mask):
    q, k, v = qkv(groups)
    masks = {None: None, "causal": causal(6), "random": np.tri(6, dtype=bool)[::-1, ::-1].copy()}
    keep = masks[mask]
    options = {"causal": {"is_causal": True}, "random": {"attn_mask": torch.from_numpy(masks["random"])}}.get(mask, {})
    ours = Heads(4, groups, mask=keep)(q, k, v)
    assert gap(ours, theirs(q, k, v, groups=groups, enable_gqa=groups < 4, **options)) < TIGHT
    if mask is not None:  # the comparison can fail: without the mask the result differs
        assert gap(Heads(4, groups)(q, k, v), ours) > 1e-2


def test_equals_scaled_dot_product_attention_with_scale_and_bias():
    q, k, v = qkv()
    bias = np.random.default_rng(4).normal(size=(4, 6, 6))
    ours = Heads(4, scale=0.3, bias=bias)(q, k, v)
    assert gap(ours, theirs(q, k, v, scale=0.3, attn_mask=tensor(bias)[None])) < TIGHT


# -- models of other people --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("transformers")
    import transformers

    torch.manual_seed(0)
    return transformers


def linear(module):
    """(weight, bias) as this package stores them: y = x W, so torch's matrix is transposed."""
    bias = None if module.bias is None else module.bias.detach()[None]
    return module.weight.detach().mT, bias


def our_attention(core, *modules) -> Attention:
    weights, biases = zip(*map(linear, modules), strict=True)
    return Attention(core, *weights, *biases)


def first(output):
    return (output[0] if isinstance(output, tuple) else output)[0]


@pytest.mark.parametrize("which", ["Q", "K", "V"])
def test_equals_bert_self_attention(transformers, which):
    from transformers.models.bert.modeling_bert import BertSelfAttention

    config = transformers.BertConfig(hidden_size=16, num_attention_heads=4, attn_implementation="eager")
    module = BertSelfAttention(config).double().eval()
    x = tensor(tokens())
    expected = first(module(x[None]))
    a = replace(
        our_attention(Heads(4), module.query, module.key, module.value, module.value), W_O=identity(16, x), b_O=None
    )
    assert gap(a(x), expected) < TIGHT
    theta, new = reparametrize(a, which)
    assert gap(new(x @ theta), expected) < 1e-9
    assert gap(a(x @ theta), expected) > 1e-2


def test_equals_llama_attention_with_rope_and_grouped_keys(transformers):
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

    config = transformers.LlamaConfig(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8, attn_implementation="eager"
    )
    module = LlamaAttention(config, layer_idx=0).double().eval()
    x = tensor(tokens(d=32))
    places = LlamaRotaryEmbedding(config)(x[None], torch.arange(6)[None])
    mask = torch.full((6, 6), -torch.inf).double().triu(1)[None, None]
    expected = first(module(x[None], position_embeddings=places, attention_mask=mask))

    def ours(layout):
        core = Heads(4, 2, mask=causal(6), rotate=rope(6, 8, layout=layout))
        return our_attention(core, module.q_proj, module.k_proj, module.v_proj, module.o_proj)

    assert gap(ours("half")(x), expected) < 1e-6  # their angles are float32
    assert gap(ours("interleaved")(x), expected) > 1e-2
    theta, new = reparametrize(ours("half"), "Q")
    assert gap(new(x @ theta), ours("half")(x)) < 1e-10


def test_equals_gpt2_attention(transformers):
    from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

    config = transformers.GPT2Config(n_embd=16, n_head=4, n_positions=8, attn_implementation="eager")
    module = GPT2Attention(config, layer_idx=0).double().eval()
    torch.nn.init.normal_(module.c_attn.bias)
    x = tensor(tokens())
    mask = torch.full((6, 6), -torch.inf).double().triu(1)[None, None]
    weights = module.c_attn.weight.detach().split(16, dim=1)  # one matrix x -> [q k v], not transposed
    biases = module.c_attn.bias.detach()[None].split(16, dim=1)
    out = module.c_proj
    a = Attention(Heads(4, mask=causal(6)), *weights, out.weight.detach(), *biases, out.bias.detach()[None])
    assert gap(a(x), first(module(x[None], attention_mask=mask))) < TIGHT


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "features",
    [
        {"rotate": rope(6, 4)},
        {"rotate": rope(6, 4, layout="half", fraction=0.5)},
        {"bias": alibi(6, 4)},
        {"norm_q": rms_norm(np.ones(4)), "norm_k": rms_norm()},
        {"mask": causal(6)},
        {"softcap": 2.0},
    ],
    ids=lambda features: ", ".join(features),
)
def test_tables_follow_the_precision_of_the_tokens(features, dtype):
    """Positions, biases and gains are float64 tables; the sublayer stays in the precision of what it reads."""
    a, x = sublayer(core=Heads(4, **features)), tokens()
    found = in_torch(a, dtype)(tensor(x, dtype))
    assert found.dtype == dtype
    assert gap(found, a(x)) < 16 * torch.finfo(dtype).eps


# -- precision and refusals --------------------------------------------------------------------------------------------


def rounding(found, exact, dtype) -> float:
    """The largest entrywise relative error, in units of eps: one rounding costs at most a half."""
    return float((np.abs(found.double().numpy() - exact) / np.abs(exact)).max()) / torch.finfo(dtype).eps


@pytest.mark.filterwarnings("ignore::qkvtheory.errors.ConditionWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_inverse_is_taken_in_float64_and_rounded_once(dtype):
    a = tensor(tokens(16), dtype)
    exact = np.linalg.inv(a.double().numpy())
    assert inverse(a).dtype == dtype
    assert rounding(inverse(a), exact, dtype) < 0.501
    twice = inverse(a.mT @ a).to(dtype) @ a.mT  # the control: a formula that rounds more than once
    assert rounding(twice, exact, dtype) > 1


@pytest.mark.filterwarnings("ignore::qkvtheory.errors.ConditionWarning")
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 1.0)])
@pytest.mark.parametrize("which", ["Q", "K", "V"])
def test_reparametrize_keeps_dtype_and_function(dtype, bound, which):
    a, x = in_torch(sublayer(), dtype), tensor(tokens(), dtype)
    theta, new = reparametrize(a, which)
    assert {getattr(new, name).dtype for name in WEIGHTS[:4]} == {dtype}
    assert torch.equal(getattr(new, f"W_{which}"), torch.eye(16, dtype=dtype))
    assert gap(new(x @ theta), a(x)) < bound


def test_mixed_dtypes_are_refused():
    a = in_torch(sublayer())
    with pytest.raises(HypothesisError, match="float32") as refusal:
        change_basis(a, torch.eye(16, dtype=torch.float32))
    assert refusal.value.hypothesis == "one kind of number"
    with pytest.raises(HypothesisError, match="bfloat16"):
        reparametrize(replace(a, W_K=a.W_K.bfloat16()), "Q")


def test_tensors_mixed_with_arrays_are_refused():
    with pytest.raises(HypothesisError, match="numpy"):
        change_basis(in_torch(sublayer()), np.eye(16))


def test_mixed_devices_are_refused():
    """The device "meta" is always there: tensors with a shape and no numbers."""
    a = in_torch(sublayer())
    with pytest.raises(HypothesisError, match=r"W_V is torch torch\.float64 on meta") as refusal:
        reparametrize(replace(a, W_V=a.W_V.to("meta")), "Q")
    assert refusal.value.hypothesis == "one kind of number"


NOT_DENSE = {
    "no numbers": (lambda w: w.to("meta"), "real numbers", "W_Q is on the device meta"),
    "sparse": (lambda w: w.to_sparse(), "matrix", "W_Q is sparse"),
    "complex": (lambda w: w.to(torch.complex128), "real numbers", "complex128"),
    "integers": (lambda w: w.to(torch.int64), "real numbers", "int64"),
    "booleans": (lambda w: w.to(torch.bool), "real numbers", "bool"),
    "NaN": (lambda w: w * torch.nan, "finite", "W_Q contains NaN"),
    "three dimensions": (lambda w: w[None], "matrix", "W_Q must be a two-dimensional array"),
    "empty": (lambda w: w[:0], "matrix", "W_Q is empty"),
}


@pytest.mark.parametrize(("made", "hypothesis", "says"), NOT_DENSE.values(), ids=NOT_DENSE)
def test_tensors_that_are_not_matrices_of_real_numbers_are_refused(made, hypothesis, says):
    a = in_torch(sublayer())
    weights = {name: made(getattr(a, name)) for name in WEIGHTS[:4]}
    with pytest.raises(HypothesisError, match=says) as refusal:
        reparametrize(replace(a, **weights), "Q")
    assert refusal.value.hypothesis == hypothesis


@pytest.mark.parametrize("columns", [8, 12])
def test_weights_that_want_a_gradient_get_one_and_draw_no_warning(columns):
    """PyTorch warns when such a tensor is read as a number; the sizes that are only looked at are detached first."""
    w = tensor(tokens(8, columns)).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = right_inverse(w, "W")
        condition(w[:, :8])
        complete_basis(w[:, :3])
    back.sum().backward()
    assert gap(w @ back, torch.eye(8)) < 1e-10
    assert w.grad is not None and bool(w.grad.any())


def test_a_nearly_singular_tensor_warns_and_a_singular_one_is_refused():
    a = in_torch(sublayer(), torch.float32)
    nearly = torch.diag(torch.logspace(0, -5, 16))
    with pytest.warns(ConditionWarning, match="nearly singular"):
        reparametrize(replace(a, W_Q=nearly), "Q")
    with pytest.raises(HypothesisError, match="singular"):
        reparametrize(replace(a, W_Q=torch.ones(16, 16)), "Q")
