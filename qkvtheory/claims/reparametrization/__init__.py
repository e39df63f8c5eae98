"""The Reparametrization Lemma."""

from qkvtheory.claims.reparametrization.conditions import ELIMINABLE_IFF, NOT_TWO
from qkvtheory.claims.reparametrization.cores import ANY_MASK, BIASES_QKNORM, POSITION_SCHEMES
from qkvtheory.claims.reparametrization.lemma import ELIMINATE_K_OR_V, ELIMINATE_Q, REPARAM_LEMMA
from qkvtheory.claims.reparametrization.shapes import COLUMN_SELECTION, GQA_ONLY_Q, WIDE_QUERY
from qkvtheory.claims.reparametrization.streams import CROSS, ONE_MATRIX, SINGLE_HEAD, WHERE_THETA_GOES

LEFT_OUT = {
    "lemma-position-schemes: 2D encodings": (
        "They have no run of their own. They act after the projections, so the lemma, which holds for every core, covers "
        "them. Their exact form belongs to a later release."
    ),
}
CLAIMS = (
    REPARAM_LEMMA,
    ELIMINATE_Q,
    ELIMINATE_K_OR_V,
    ANY_MASK,
    POSITION_SCHEMES,
    BIASES_QKNORM,
    NOT_TWO,
    ELIMINABLE_IFF,
    GQA_ONLY_Q,
    COLUMN_SELECTION,
    WIDE_QUERY,
    CROSS,
    SINGLE_HEAD,
    WHERE_THETA_GOES,
    ONE_MATRIX,
)
