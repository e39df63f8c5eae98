(** * The cache of keys and values

    What a decoder has to keep of the tokens it has seen. *)
From mathcomp Require Import all_ssreflect all_algebra.
From QKV Require Import ThreeProducts Reparametrization.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory.
Local Open Scope ring_scope.

(** ** Keys alone, if [WK] is square and invertible

    The values are computed from the keys as they come out of the projection,
    bias included; the core rotates or normalizes these afterwards, if at all. *)
Section Slim.
Variables (R : comUnitRingType) (n d dq dv e dout : nat).
Implicit Types (a : attention R n n d d dq d dv e dout).

(** What replaces [WV], and what is added: [V = K *m C + ones *m c]. *)
Definition slim_map a := invmx (W_K a) *m W_V a.
Definition slim_bias a (bK : 'rV_d) (bV : 'rV_dv) := bV - bK *m slim_map a.

Definition slim a (bQ : 'rV_dq) (bK : 'rV_d) (bV : 'rV_dv) (bO : 'rV_dout) X := let K := X *m W_K a + ones *m bK in
  core a (X *m W_Q a + ones *m bQ) K (K *m slim_map a + ones *m slim_bias a bK bV) *m W_O a + ones *m bO.

Theorem slim_exact a bQ bK bV bO X : W_K a \in unitmx ->
  (X *m W_K a + ones *m bK - ones *m bK) *m invmx (W_K a) = X /\
  slim a bQ bK bV bO X = mha_biased a bQ bK bV bO X.
Proof.
move=> K_inv; split; first by rewrite addrK mulmxK.
rewrite /slim /mha_biased; congr (core a _ _ _ *m _ + _).
rewrite mulmxDl basis_cancel // -addrA; congr (_ + _).
by rewrite -mulmxA -mulmxDr addrC subrK.
Qed.
End Slim.
Print Assumptions slim_exact.

(** When exactly do the keys determine the values?  For [n.+1] tokens, and any
    function at all in the place of [slim_map]. *)
Theorem slim_iff (F : fieldType) n d dk dv (WK : 'M[F]_(d, dk)) (WV : 'M[F]_(d, dv)) :
  (exists f : 'M_(n.+1, dk) -> 'M_(n.+1, dv), forall X, X *m WV = f (X *m WK)) <-> exists C, WV = WK *m C.
Proof.
split=> [[f values]|[C ->]]; last by exists (fun K => K *m C) => X; rewrite mulmxA.
exists (pinvmx WK *m WV); apply: (@mulmx_ext _ n) => X.
have : X *m WK *m pinvmx WK *m WK = X *m WK by rewrite mulmxKpV // submxMl.
by move: (pinvmx WK) => P same; rewrite !mulmxA values [RHS]values same.
Qed.
Print Assumptions slim_iff.

(** So narrow keys, as of grouped queries, do not determine the values of an invertible [WV]. *)
Corollary slim_needs_square (F : fieldType) n d dk (WK : 'M[F]_(d, dk)) (WV : 'M[F]_d) :
  (dk < d)%N -> WV \in unitmx -> ~ exists f : 'M_(n.+1, dk) -> 'M_(n.+1, d), forall X, X *m WV = f (X *m WK).
Proof.
move=> narrow V_inv /slim_iff[C VE]; have := leq_trans (mxrankM_maxl WK C) (rank_leq_col WK).
by rewrite -VE mxrank_unit // leqNgt narrow.
Qed.
Print Assumptions slim_needs_square.
