(** * Queries that are not linear

    In the place of [X *m WQ] stands [X + f X]: the identity, and beside it a
    bottleneck.  Which bases are left, and why no basis makes such a query linear. *)
From mathcomp Require Import all_ssreflect all_algebra.
From QKV Require Import ThreeProducts Reparametrization Skipless EverySkip SharedQueries WhereItStops.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory.
Local Open Scope ring_scope.

Section Query.
Variables (R : comUnitRingType) (n d r : nat).
Implicit Types (X : 'M[R]_(n, d)) (T U : 'M[R]_d).

(** What stands beside the identity: [N] is the norm that it reads, [act] the activation. *)
Definition bottleneck N (act : 'M[R]_(n, r) -> 'M[R]_(n, r)) (W1 : 'M_(d, r)) (W2 : 'M_(r, d)) X : 'M_(n, d) :=
  act (N X *m W1) *m W2.

Definition residual_query N act W1 W2 X := X + bottleneck N act W1 W2 X.

(** A sublayer that asks with it. *)
Definition ask dv e dout (core : 'M[R]_(n, d) -> 'M[R]_(n, d) -> 'M[R]_(n, dv) -> 'M[R]_(n, e)) N act W1 W2 (WK : 'M_d)
    WV (WO : 'M_(e, dout)) bK bV bO X :=
  core (residual_query N act W1 W2 X) (X *m WK + ones *m bK) (X *m WV + ones *m bV) *m WO + ones *m bO.

(** The query in another basis gives what it gave, in that basis. *)
Lemma residual_query_basis N act W1 W2 T X : commutes N T -> T \in unitmx ->
  residual_query N act (invmx T *m W1) (W2 *m T) (X *m T) = residual_query N act W1 W2 X *m T.
Proof. by move=> NT T_inv; rewrite /residual_query /bottleneck NT mulmxDl !mulmxA mulmxK. Qed.

End Query.

(** ** A nonlinear query is new *)
Section New.
Variables (R : comUnitRingType) (n d r : nat) (act : 'M[R]_(n, r) -> 'M[R]_(n, r)) (W1 : 'M[R]_(d, r)) (W2 : 'M[R]_(r, d)).
Implicit Types T U : 'M[R]_d.

Definition is_linear (q : 'M[R]_(n, d) -> 'M[R]_(n, d)) := exists W : 'M_d, forall X, q X = X *m W.

Lemma linear_in_other_bases q T U : T \in unitmx -> U \in unitmx ->
  is_linear (fun X => q (X *m T) *m U) <-> is_linear q.
Proof.
move=> T_inv U_inv; split=> -[W qW].
  by exists (invmx T *m W *m invmx U) => X; rewrite !mulmxA -qW mulmxKV // mulmxK.
by exists (T *m W *m U) => X; rewrite qW !mulmxA.
Qed.

Lemma linear_beside_identity f : is_linear (fun X => X + f X) <-> is_linear f.
Proof.
split=> -[W qW].
  by exists (W - 1%:M) => X; rewrite mulmxBr mulmx1 -qW addrC addKr.
by exists (1%:M + W) => X; rewrite qW mulmxDr mulmx1.
Qed.

(** H1: what stands beside the identity is not linear.  H2: the bases are invertible. *)
Theorem nonlinear_query_beyond_orbit T U :
  ~ is_linear (bottleneck id act W1 W2) ->
  T \in unitmx -> U \in unitmx ->
  ~ is_linear (fun X => residual_query id act W1 W2 (X *m T) *m U) /\
  forall X, residual_query id act W1 0 X = X *m 1%:M.
Proof.
move=> f_nonlinear T_inv U_inv; split=> [|X]; last by rewrite /residual_query /bottleneck mulmx0 addr0 mulmx1.
by move=> q_linear; apply/f_nonlinear/linear_beside_identity; exact: (linear_in_other_bases _ T_inv U_inv).1 q_linear.
Qed.
End New.
Print Assumptions linear_in_other_bases.
Print Assumptions linear_beside_identity.
Print Assumptions nonlinear_query_beyond_orbit.

(** ** The bases that are left

    The identity carries the basis of the stream into the heads, where the keys must
    undo it: so it has one block for each head. *)
Section Basis.
Variables (R : comUnitRingType) (n r H : nat) (p : 'I_H -> nat).
Local Notation d := (\sum_h p h)%N.
Variables (dv e dout : nat) (g : 'M[R]_(n, \sum_(h < H) n) -> 'M[R]_(n, dv) -> 'M[R]_(n, e)).
Variables (act : 'M[R]_(n, r) -> 'M[R]_(n, r)) (W1 : 'M[R]_(d, r)) (W2 : 'M[R]_(r, d)).
Variables (WK : 'M[R]_d) (WV : 'M[R]_(d, dv)) (WO : 'M[R]_(e, dout)).
Variables (bK : 'rV[R]_d) (bV : 'rV[R]_dv) (bO : 'rV[R]_dout).
Local Notation heads := (@score_core _ _ _ p dv e g).

(** H1: the norm that the query reads lets [T] through, and no norm stands on the
    stream.  H2: [T] is invertible.  H3: it has one block for each head.  H4: from
    queries and keys only the scores of the heads are used. *)
Theorem nonlinear_query_gauge N (G : forall h, 'M[R]_(p h)) X :
  let T := \mxdiag_h G h in
  commutes N T ->
  T \in unitmx ->
  let WK' := invmx T *m WK *m (invmx T)^T in
  ask heads N act (invmx T *m W1) (W2 *m T) WK' (invmx T *m WV) WO (bK *m (invmx T)^T) bV bO (X *m T)
  = ask heads N act W1 W2 WK WV WO bK bV bO X.
Proof.
move=> T NT T_inv WK'; rewrite /ask residual_query_basis // score_core_align -/T.
have undo : (invmx T)^T *m T^T = 1%:M by rewrite -trmx_mul mulmxV // trmx1.
have -> : (X *m T *m WK' + ones *m (bK *m (invmx T)^T)) *m T^T = X *m WK + ones *m bK.
  by rewrite /WK' !mulmxA -mulmxDl -mulmxA undo mulmx1 mulmxK.
by rewrite !mulmxA mulmxK.
Qed.

Lemma mxdiag_mul (D B : forall h, 'M[R]_(p h)) : \mxdiag_h D h *m \mxdiag_h B h = \mxdiag_h (D h *m B h).
Proof.
rewrite [X in _ *m X]/mxdiag mul_mxdiag_mxblock; apply: eq_mxblock => i j.
by case: eqP => [ij|_]; rewrite ?mulmx0 //; case: j / ij; rewrite !conform_mx_id.
Qed.

(** RMSNorm is such a norm if the blocks are orthogonal. *)
Lemma nonlinear_query_gauge_rms scale (G : forall h, 'M[R]_(p h)) X :
  (forall h, orthogonal (G h)) ->
  let T := \mxdiag_h G h in
  ask heads (normed scale) act (T^T *m W1) (W2 *m T) (T^T *m WK *m T) (T^T *m WV) WO (bK *m T) bV bO (X *m T)
  = ask heads (normed scale) act W1 W2 WK WV WO bK bV bO X.
Proof.
move=> G_ort T; have T_ort : orthogonal T.
  by rewrite /orthogonal tr_mxdiag mxdiag_mul (eq_mxdiag G_ort) mxdiagZ.
have := nonlinear_query_gauge X (normed_orthogonal scale T_ort) (orthogonal_unit T_ort).
by rewrite -/T (orthogonal_inv T_ort) trmxK.
Qed.
End Basis.
Print Assumptions nonlinear_query_gauge.
Print Assumptions nonlinear_query_gauge_rms.

(** No other bases are left: if some keys give every head its scores again, for all
    tokens, then the basis does not mix heads. *)
Section OnlyBlocks.
Variables (F : fieldType) (H : nat) (p : 'I_H -> nat).
Local Notation d := (\sum_h p h)%N.

Theorem nonlinear_query_blocks (T WK WK' : 'M[F]_d) :
  WK \in unitmx ->
  (forall n (X Y : 'M[F]_(n, d)) h,
    submxrow (X *m T) h *m (submxrow (Y *m T *m WK') h)^T = submxrow X h *m (submxrow (Y *m WK) h)^T) ->
  forall h k, k != h -> submxblock T k h = 0.
Proof.
move=> WK_inv same h k kh; pose E : 'M[F]_(d, p h) := submxrow 1%:M h.
have {}same := same d 1%:M 1%:M h; rewrite !mul1mx -/E in same.
move: same; set M := (submxrow (T *m WK') h)^T; set KT := (submxrow WK h)^T => TM.
have E_tall : \rank E = p h.
  apply/eqP/row_fullP; exists (submxcol 1%:M h).
  rewrite /E mul_submxrow mulmx1 -submxblockEv.
  by rewrite -(@mxdiagZ _ _ p 1) submxblock_diag.
have KT_wide : row_free KT.
  have -> : KT = E^T *m WK^T by rewrite -trmx_mul /E mul_submxrow mulmx1.
  by rewrite /row_free mxrankMfree ?row_free_unit ?unitmx_tr // mxrank_tr E_tall.
have M_wide : row_free M.
  by rewrite /row_free eqn_leq rank_leq_row -{1}E_tall -(mxrankMfree E KT_wide) -TM mxrankM_maxr.
rewrite submxblockEh -[submxrow T h](mulmxKp M_wide) TM -!submxcol_mul -submxblockEh.
have -> : submxblock (1%:M : 'M[F]_d) k h = 0.
  by rewrite -(@mxdiagZ _ _ p 1) mxblockK (negbTE kh).
by rewrite !mul0mx.
Qed.
End OnlyBlocks.
Print Assumptions nonlinear_query_blocks.
