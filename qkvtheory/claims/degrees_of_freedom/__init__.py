"""Degrees of freedom: what may change in the weights while the function stays."""

from __future__ import annotations

from qkvtheory.claims.degrees_of_freedom.biases import BIAS_GAUGE
from qkvtheory.claims.degrees_of_freedom.counts import QUARTER, TWELFTH
from qkvtheory.claims.degrees_of_freedom.heads import GQA_GAUGE, HEAD_GAUGE
from qkvtheory.claims.degrees_of_freedom.identity_queries import COST
from qkvtheory.claims.degrees_of_freedom.meaning import DEPENDENT, TRAINING
from qkvtheory.claims.degrees_of_freedom.networks import NETWORKS
from qkvtheory.claims.degrees_of_freedom.per_head import PER_HEAD
from qkvtheory.claims.degrees_of_freedom.per_layer import PER_LAYER
from qkvtheory.claims.degrees_of_freedom.scores import QK_NORM_GAUGE, ROPE_COMMUTANT
from qkvtheory.claims.degrees_of_freedom.stream import NO_PRODUCT, ONE_BLOCK, STREAM_GAUGE
from qkvtheory.claims.degrees_of_freedom.units import ACTIVATION_GAUGE
from qkvtheory.claims.model import Claim

LEFT_OUT: dict[str, str] = {}
CLAIMS: tuple[Claim, ...] = (
    HEAD_GAUGE,
    STREAM_GAUGE,
    ROPE_COMMUTANT,
    QK_NORM_GAUGE,
    GQA_GAUGE,
    BIAS_GAUGE,
    ACTIVATION_GAUGE,
    PER_HEAD,
    PER_LAYER,
    NETWORKS,
    COST,
    QUARTER,
    TWELFTH,
    ONE_BLOCK,
    NO_PRODUCT,
    DEPENDENT,
    TRAINING,
)
