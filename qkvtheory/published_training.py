"""What others have printed about training with fewer projections, as they printed it: data to recompute and compare.

The language models of Kayyam, Madan Gopal and Lewis are in ``qkvtheory.published``. Numbers are strings as printed,
read by ``published.exact`` and ``published.interval``.

- ``IDENTITY``: the shapes of the identity-query models (2510.23912, from the authors' code): width, head width, MLP
  factor, whether queries are learned, and millions of parameters without embeddings, tied, untied; ``IDENTITY_RUNS``
  the ranges of longer runs by the authors.
- ``NONLINEAR``: validation loss of the nonlinear query (2603.13381): v1 as reported, v3 from the paper; ``TUNING``: a
  later independent tuning (Sang 2026, unpublished, from its code).
- ``SYNTHETIC``, ``VISION``, ``IMAGENET``: accuracies of 2606.04032, in the paper and in the authors' run of 2026.
- ``KEYLESS``: perplexities of keyless models and of QKV (2606.21848); ``GAPS`` their train-validation gaps.
- ``RECALL``: a pilot on associative recall by the authors of 2606.04032; ``SKIPLESS``: identity values (2311.01906).
- ``NEIGHBORS``: single figures from other papers.
"""

from __future__ import annotations

from typing import NamedTuple


class Shape(NamedTuple):
    """A GPT-2-small-like decoder of 12 layers and 12 heads, with learned positions and no biases; its sizes as counted
    by the authors (``body``: without embeddings), in millions of parameters, and as we count the whole model.
    """

    d: int
    head_width: int
    mlp: float
    learned_queries: bool
    body: str
    tied: str
    untied: str


LAYERS, VOCABULARY, CONTEXT, HEADS = 12, 50304, 1024, 12
IDENTITY = {
    "original": Shape(768, 64, 4, True, "84.95", "124.37", "163.01"),
    "identity": Shape(768, 64, 4, False, "77.88", "117.30", "155.93"),
    "identity, larger MLP": Shape(768, 64, 4.5, False, "84.95", "124.37", "163.01"),
    "original, smaller MLP": Shape(768, 64, 3.5, True, "77.88", "117.30", "155.93"),
    "original, smaller overall": Shape(744, 62, 4, True, "79.73", "117.92", "155.34"),
}
# Validation loss of the authors' longer untied runs, from lowest to highest: full and reduced model; and by how much
# the reduced one was lower there, and higher in a pair of shorter runs.
IDENTITY_RUNS = {"full": ("2.861", "2.895"), "reduced": ("2.851", "2.882")}
IDENTITY_LOWER, IDENTITY_HIGHER = ("0.32%", "0.45%"), ("0.34%", "0.39%")
DECAYS = {"original": "0.1", "identity": "0.03125"}  # weight decay of the authors' runs
TIMES_LOWER = 3  # "over three times lower" (v3)

NONLINEAR_V1 = {
    "linear": "2.956",
    "linear, MLP 4.75 d": "2.927",
    "linear, MLP 4.75 d, scaled rate": "2.928",
    "nonlinear": "2.919",
    "nonlinear, best": "2.915",
}
NONLINEAR_V3 = {"loss": "2.40%", "perplexity": "6.81%"}  # by so much lower
TUNING: dict[
    str, dict[str, tuple[str, ...]]
] = {  # the shape of GPT-3 Large; model -> learning rate -> final validation loss of each run
    "linear": {"2.5e-4": ("2.6247",)},
    "linear + QK-norm": {
        "2.5e-4": ("2.6165",),
        "7.5e-4": ("2.5551",),
        "1.5e-3": ("2.5403", "2.5405"),
        "2.55e-3": ("2.5469",),
    },
    "nonlinear": {"2.55e-3": ("2.5472", "2.5487", "2.5464")},
    "nonlinear, key norm": {"1.5e-3": ("2.5383",)},
    "linear, decay to zero": {"2e-3": ("2.5504",)},
}
DIVERGED = 2  # of the three seeds of "linear" at 2.5e-4

TASKS = ("REVERSE", "SORT", "SUB", "SWAP", "COPY")
SYNTHETIC = {  # variant -> accuracy on TASKS and the printed mean: in the paper, in the authors' run of 2026
    "QKV": ((".698", ".971", "1", ".588", "1", ".851"), (".529", ".753", ".992", ".524", ".991", ".758")),
    "Q=K-V": ((".705", ".967", "1", ".597", "1", ".854"), (".475", ".691", ".991", ".471", ".994", ".724")),
    "(Q=K-V)+": ((".718", ".963", "1", ".671", "1", ".870"), (".522", ".770", ".993", ".530", ".991", ".761")),
    "Q-K=V": ((".701", ".958", "1", ".590", "1", ".850"), (".510", ".747", ".992", ".511", ".994", ".751")),
    "Q=K=V": ((".514", ".939", "1", ".446", "1", ".780"), (".295", ".671", ".991", ".307", ".992", ".651")),
    "(Q=K=V)+": ((".581", ".957", "1", ".576", "1", ".823"), (".370", ".770", ".990", ".382", ".990", ".700")),
}
SYNTHETIC_RUNS = (108, 3240)  # runs of one cell of the paper; of all of the run of 2026

IMAGES = ("MNIST", "FMNIST", "CIFAR-10", "CIFAR-100")
VISION = {  # variant -> accuracy on IMAGES in the paper, in the authors' run of 2026
    "QKV": ((".981", ".887", ".663", ".363"), (".984", ".885", ".700", ".430")),
    "Q=K-V": ((".981", ".885", ".666", ".369"), (".983", ".884", ".715", ".447")),
    "(Q=K-V)+": ((".982", ".884", ".662", ".366"), (".981", ".883", ".695", ".408")),
    "Q-K=V": ((".976", ".883", ".659", ".358"), (".979", ".882", ".694", ".428")),
    "Q=K=V": ((".978", ".877", ".672", ".376"), (".981", ".884", ".715", ".423")),
    "(Q=K=V)+": ((".977", ".875", ".669", ".364"), (".979", ".875", ".693", ".410")),
}
# ImageNet, ViT-S/16 (12 layers, 384 wide, biases), one run each, follow-up by the authors: accuracy in percent and,
# where printed, millions of parameters.
IMAGENET = {"QKV": ("74.38", "22.05"), "Q-K=V": ("71.67", "20.28"), "(Q=K=V)+": ("66.76", "18.50")}
IMAGENET_SHAPE = (12, 384)

KEYLESS = {  # model -> perplexity of the keyless one, of QKV
    "GPT-2, 36 layers": ("33.26", "33.50"),
    "Pythia-410M": ("39.22", "40.99"),
    "Qwen2-1.5B": ("33.79", "34.38"),
    "Llama-3.2-1B": ("38.59", "39.09"),
    "GPT-2, 12 layers": ("33.84", "33.71"),
}
KEYLESS_CHANGES = ("-4.3%", "+0.4%")  # the least and the most
GAPS = {"keyless": ".6866", "QKV": ".8404"}  # validation less training loss, GPT-2 with 36 layers
KEYLESS_CACHE = {"keyless": ".118", "QKV": ".236"}  # gigabytes at 8192 tokens, Qwen2

RECALL = {"QKV": (".9995",), "keyless, 4 heads": (".34", ".37"), "keyless, 1 head": ("1.0000",)}  # over the seeds

SKIPLESS = {"learned": ("1.194", "167"), "identity": ("1.178", "146")}  # evaluation loss, millions of parameters
SKIPLESS_SAVED = "13%"
NEIGHBORS = {
    "symmetric dot product, GLUE": ("79.36", "78.74"),  # 2024, against its baseline
    "shared weights, attention and all": ("66.53%", "12.94%"),  # parameters saved (2025)
    "more heads at one width, SQuAD F1": ("90.89", "90.45"),  # few heads, many heads (2002.07028)
}
TRANSLATION_CHANGES = {"sinusoidal": "-.5155", "relative": "-.2117", "QV-Ka, context 2": "-.0386"}
