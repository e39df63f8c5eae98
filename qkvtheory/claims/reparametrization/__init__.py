"""Chapter 2. The Reparametrization Lemma."""

from qkvtheory.claims.reparametrization.conditions import ELIMINABLE_IFF, NOT_TWO
from qkvtheory.claims.reparametrization.cores import ANY_MASK, BIASES_QKNORM, POSITION_SCHEMES
from qkvtheory.claims.reparametrization.lemma import ELIMINATE_K_OR_V, ELIMINATE_Q, REPARAM_LEMMA
from qkvtheory.claims.reparametrization.shapes import COLUMN_SELECTION, GQA_ONLY_Q, WIDE_QUERY
from qkvtheory.claims.reparametrization.streams import CROSS, ONE_MATRIX, SINGLE_HEAD, WHERE_THETA_GOES

LEFT_OUT = {
    "lemma-position-schemes, 2D encodings": (
        "the 2D position corrections are defined in the chapter on restoring direction, which this release does not have; "
        "they act after the projections, so the lemma for an arbitrary core covers them"
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
