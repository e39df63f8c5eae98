(** * The Reparametrization Lemma

    A change of basis of the stream, [X -> X *m T], can be undone inside the
    three projections.  Choosing [T := WQ] makes the query projection the
    identity.  The core of the sublayer (heads, groups, mask, rotation, norm,
    softmax) is an arbitrary function throughout. *)
From mathcomp Require Import all_ssreflect all_algebra.
From QKV Require Import ThreeProducts.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory.
Local Open Scope ring_scope.

(** ** The sublayer

    Queries read a stream of [n] tokens of width [d]; keys and values read a
    memory of [m] tokens of width [dz].  All other widths are free, so grouped
    and narrow projections are included.  Self-attention is [memory = stream]. *)
Record attention (R : ringType) (n m d dz dq dk dv e dout : nat) := Attention {
  core : 'M[R]_(n, dq) -> 'M[R]_(m, dk) -> 'M[R]_(m, dv) -> 'M[R]_(n, e);
  W_Q : 'M[R]_(d, dq);  W_K : 'M[R]_(dz, dk);  W_V : 'M[R]_(dz, dv);  W_O : 'M[R]_(e, dout) }.

Definition cross R n m d dz dq dk dv e dout (a : attention R n m d dz dq dk dv e dout) X Z :=
  core a (X *m W_Q a) (Z *m W_K a) (Z *m W_V a) *m W_O a.

Definition mha R n d dq dk dv e dout (a : attention R n n d d dq dk dv e dout) X := cross a X X.

(** Biases are added to the rows of the products, and to the output. *)
Definition mha_biased R n d dq dk dv e dout (a : attention R n n d d dq dk dv e dout)
    (bQ : 'rV_dq) (bK : 'rV_dk) (bV : 'rV_dv) (bO : 'rV_dout) X :=
  core a (X *m W_Q a + ones *m bQ) (X *m W_K a + ones *m bK) (X *m W_V a + ones *m bV)
    *m W_O a + ones *m bO.

(** ** The construction: basis [T] for the stream, [P] for the memory *)
Section ChangeOfBasis.
Variables (R : comUnitRingType) (n m d dz dq dk dv e dout : nat).

Definition change_bases (a : attention R n m d dz dq dk dv e dout) (T : 'M_d) (P : 'M_dz) :=
  Attention (core a) (invmx T *m W_Q a) (invmx P *m W_K a) (invmx P *m W_V a) (W_O a).

Definition change_basis (a : attention R n n d d dq dk dv e dout) (T : 'M_d) :=
  Attention (core a) (invmx T *m W_Q a) (invmx T *m W_K a) (invmx T *m W_V a) (W_O a).

Lemma change_bases_cross a T P X Z : T \in unitmx -> P \in unitmx ->
  cross (change_bases a T P) (X *m T) (Z *m P) = cross a X Z.
Proof. by move=> T_inv P_inv; rewrite /cross /= !basis_cancel. Qed.

Theorem reparam_lemma a T X : T \in unitmx -> mha (change_basis a T) (X *m T) = mha a X.
Proof. by move=> T_inv; rewrite /mha /cross /= !basis_cancel. Qed.

(** *** Masks, positions, biases: corollaries, because the core is arbitrary *)

(** The mask may depend on the products in any way: causal, per head, top-k. *)
Corollary lemma_any_mask (Mask : Type) (mask : 'M[R]_(n, dq) -> 'M[R]_(n, dk) -> Mask)
    (masked : Mask -> 'M[R]_(n, dq) -> 'M[R]_(n, dk) -> 'M[R]_(n, dv) -> 'M[R]_(n, e))
    WQ WK WV WO T X : T \in unitmx ->
  let a := Attention (fun q k v => masked (mask q k) q k v) WQ WK WV WO : attention R n n d d dq dk dv e dout in
  mha (change_basis a T) (X *m T) = mha a X.
Proof. by move=> T_inv a; apply: reparam_lemma. Qed.

(** Rotations act on the products; an additive position table [P] is part of
    the stream and moves with it. *)
Corollary lemma_position_schemes v
    (rot_q : 'M[R]_(n, dq) -> 'M[R]_(n, dq)) (rot_k : 'M[R]_(n, dk) -> 'M[R]_(n, dk))
    (g : 'M[R]_(n, dq) -> 'M[R]_(n, dk) -> 'M[R]_(n, dv) -> 'M[R]_(n, e))
    WQ WK WV WO T (tokens : 'M[R]_(n, v)) (E : 'M[R]_(v, d)) (P : 'M[R]_(n, d)) : T \in unitmx ->
  let a := Attention (fun q k v => g (rot_q q) (rot_k k) v) WQ WK WV WO : attention R n n d d dq dk dv e dout in
  mha (change_basis a T) (tokens *m (E *m T) + P *m T) = mha a (tokens *m E + P).
Proof. by move=> T_inv a; rewrite mulmxA -mulmxDl reparam_lemma. Qed.

(** Biases stay where they are; so do norms on queries and keys (in the core). *)
Corollary lemma_biases_qknorm (a : attention R n n d d dq dk dv e dout) bQ bK bV bO T X :
  T \in unitmx ->
  mha_biased (change_basis a T) bQ bK bV bO (X *m T) = mha_biased a bQ bK bV bO X.
Proof. by move=> T_inv; rewrite /mha_biased /= !basis_cancel. Qed.
End ChangeOfBasis.
Print Assumptions reparam_lemma.
Print Assumptions lemma_any_mask.
Print Assumptions lemma_position_schemes.
Print Assumptions lemma_biases_qknorm.

(** ** One projection becomes the identity

    Only the eliminated matrix has to be square; the other two are free. *)
Section Eliminate.
Variables (R : comUnitRingType) (n d dq dk dv e dout : nat).

Definition without_q (a : attention R n n d d d dk dv e dout) :=
  Attention (core a) 1%:M (invmx (W_Q a) *m W_K a) (invmx (W_Q a) *m W_V a) (W_O a).
Definition without_k (a : attention R n n d d dq d dv e dout) :=
  Attention (core a) (invmx (W_K a) *m W_Q a) 1%:M (invmx (W_K a) *m W_V a) (W_O a).
Definition without_v (a : attention R n n d d dq dk d e dout) :=
  Attention (core a) (invmx (W_V a) *m W_Q a) (invmx (W_V a) *m W_K a) 1%:M (W_O a).

Theorem eliminate_q a X : W_Q a \in unitmx -> mha (without_q a) (X *m W_Q a) = mha a X.
Proof. by move=> Q_inv; rewrite /mha /cross /= mulmx1 !basis_cancel. Qed.

Theorem eliminate_k a X : W_K a \in unitmx -> mha (without_k a) (X *m W_K a) = mha a X.
Proof. by move=> K_inv; rewrite /mha /cross /= mulmx1 !basis_cancel. Qed.

Theorem eliminate_v a X : W_V a \in unitmx -> mha (without_v a) (X *m W_V a) = mha a X.
Proof. by move=> V_inv; rewrite /mha /cross /= mulmx1 !basis_cancel. Qed.

(** Biases stay where they are, that of the eliminated projection too. *)
Theorem eliminate_q_biased a bQ bK bV bO X : W_Q a \in unitmx ->
  mha_biased (without_q a) bQ bK bV bO (X *m W_Q a) = mha_biased a bQ bK bV bO X.
Proof. by move=> Q_inv; rewrite /mha_biased /= mulmx1 !basis_cancel. Qed.

Theorem eliminate_k_biased a bQ bK bV bO X : W_K a \in unitmx ->
  mha_biased (without_k a) bQ bK bV bO (X *m W_K a) = mha_biased a bQ bK bV bO X.
Proof. by move=> K_inv; rewrite /mha_biased /= mulmx1 !basis_cancel. Qed.

Theorem eliminate_v_biased a bQ bK bV bO X : W_V a \in unitmx ->
  mha_biased (without_v a) bQ bK bV bO (X *m W_V a) = mha_biased a bQ bK bV bO X.
Proof. by move=> V_inv; rewrite /mha_biased /= mulmx1 !basis_cancel. Qed.
End Eliminate.
Print Assumptions eliminate_q.

Theorem eliminate_k_or_v (R : comUnitRingType) n d dq dk dv e dout X :
  (forall a : attention R n n d d dq d dv e dout,
     W_K a \in unitmx -> mha (without_k a) (X *m W_K a) = mha a X) /\
  (forall a : attention R n n d d dq dk d e dout,
     W_V a \in unitmx -> mha (without_v a) (X *m W_V a) = mha a X).
Proof. by split=> a; [apply: eliminate_k | apply: eliminate_v]. Qed.
Print Assumptions eliminate_k_or_v.

(** ** When exactly?  For an unrestricted [g], the condition is sharp *)

(** A linear map is determined by what it does to all inputs (of one row or more). *)
Lemma mulmx_ext (R : ringType) n d m (A B : 'M[R]_(d, m)) :
  (forall X : 'M[R]_(n.+1, d), X *m A = X *m B) -> A = B.
Proof.
move=> AB; apply/row_matrixP=> i.
have := congr1 (row 0) (AB (\matrix_(_ < n.+1) delta_mx 0 i)).
by rewrite !row_mul rowK -!rowE.
Qed.

Section FreeG.
Variables (R : comUnitRingType) (n d dk dv : nat).
Variables (WQ : 'M[R]_d) (WK : 'M[R]_(d, dk)) (WV : 'M[R]_(d, dv)).

(** One new stream and two new projections serve every [g] at once. *)
Definition eliminable := exists T WK' WV',
  forall Omega (g : 'M_(n.+1, d) -> 'M_(n.+1, dk) -> 'M_(n.+1, dv) -> Omega) X,
  g (X *m WQ) (X *m WK) (X *m WV) = g (X *m T) (X *m T *m WK') (X *m T *m WV').

Theorem eliminable_iff : eliminable <-> exists A B, WK = WQ *m A /\ WV = WQ *m B.
Proof.
split=> [[T [A [B same]]]|[A [B [KA VB]]]]; last first.
  by exists WQ, A, B => Omega g X; rewrite -!mulmxA -KA -VB.
have {}same X := same _ (fun q k v => (q, k, v)) X.
have WQ_T : WQ = T by apply: (@mulmx_ext _ n) => X; case: (same X).
by exists A, B; split; apply: (@mulmx_ext _ n) => X; case: (same X) => _ eqK eqV;
  rewrite WQ_T mulmxA.
Qed.
End FreeG.
Print Assumptions eliminable_iff.

(** If [WK] is square and invertible, then [WQ] must be invertible. *)
Theorem eliminable_iff_invertible (R : comUnitRingType) n d dv (WQ WK : 'M[R]_d) (WV : 'M_(d, dv)) :
  WK \in unitmx -> eliminable n WQ WK WV <-> WQ \in unitmx.
Proof.
move=> K_inv; split=> [/eliminable_iff[A [_ [KA _]]]|Q_inv].
  by have := mulmxV K_inv; rewrite {1}KA -mulmxA => /mulmx1_unit[].
by apply/eliminable_iff; exists (invmx WQ *m WK), (invmx WQ *m WV); rewrite !mulKVmx.
Qed.
Print Assumptions eliminable_iff_invertible.

(** One basis buys one matrix.  [g] is arbitrary, so its arguments may be
    permuted and the statement covers every pair of projections. *)
Theorem not_two_at_once (R : comUnitRingType) n d dv (W1 W2 : 'M[R]_d) (W3 : 'M_(d, dv)) :
  (exists T W3', T \in unitmx /\
     forall Omega (g : 'M_(n.+1, d) -> 'M_(n.+1, d) -> 'M_(n.+1, dv) -> Omega) X,
     g (X *m W1) (X *m W2) (X *m W3) = g (X *m T *m 1%:M) (X *m T *m 1%:M) (X *m T *m W3'))
  <-> W1 = W2 /\ W1 \in unitmx.
Proof.
split=> [[T [A [T_inv same]]]|[<- W1_inv]]; last first.
  by exists W1, (invmx W1 *m W3); split=> // Omega g X; rewrite mulmx1 basis_cancel.
have {}same X := same _ (fun q k v => (q, k, v)) X.
have W1T : W1 = T by apply: (@mulmx_ext _ n) => X; case: (same X); rewrite mulmx1.
have W2T : W2 = T by apply: (@mulmx_ext _ n) => X; case: (same X) => _; rewrite mulmx1.
by rewrite W1T W2T.
Qed.
Print Assumptions not_two_at_once.

(** ** Other shapes *)

(** Grouped keys are narrow, [dk < d].  Then [WQ] can go, but a stream that *is*
    the keys, [X *m WK], has lost what an invertible [WQ] reads. *)
Theorem gqa_only_q (F : fieldType) n d dk dv e dout (a : attention F n n d d d dk dv e dout) :
  (dk < d)%N -> W_Q a \in unitmx ->
  (forall X, mha (without_q a) (X *m W_Q a) = mha a X) /\ ~ exists A, W_Q a = W_K a *m A.
Proof.
move=> narrow Q_inv; split=> [X|[A QKA]]; first exact: eliminate_q.
have := leq_trans (mxrankM_maxl (W_K a) A) (rank_leq_col (W_K a)).
by rewrite -QKA mxrank_unit // leqNgt narrow.
Qed.
Print Assumptions gqa_only_q.

(** Independent columns [U], completed to a basis, become unit vectors: the
    product [X *m U] is then a block of coordinates of the new stream. *)
Theorem column_selection (R : comUnitRingType) n s t (U : 'M[R]_(s + t, s)) (U' : 'M_(s + t, t))
    (X : 'M_(n, s + t)) :
  row_mx U U' \in unitmx ->
  invmx (row_mx U U') *m U = col_mx 1%:M 0 /\ lsubmx (X *m row_mx U U') = X *m U.
Proof.
move=> T_inv; split; last by rewrite mul_mx_row row_mxKl.
by rewrite -[RHS](mulKmx T_inv) mul_row_col mulmx1 mulmx0 addr0.
Qed.
Print Assumptions column_selection.

(** Inside the sublayer: the keys are the first [s] coordinates of the new
    stream; or the keys are the first [s], and the values the [u] after them. *)
Definition select_k (R : comUnitRingType) n s t dq dv e dout
    (a : attention R n n (s + t) (s + t) dq s dv e dout) U' := let T := row_mx (W_K a) U' in
  Attention (core a) (invmx T *m W_Q a) (lsubmx 1%:M) (invmx T *m W_V a) (W_O a).

Theorem select_keys (R : comUnitRingType) n s t dq dv e dout
    (a : attention R n n (s + t) (s + t) dq s dv e dout) (U' : 'M_(s + t, t)) X :
  let T := row_mx (W_K a) U' in T \in unitmx -> mha (select_k a U') (X *m T) = mha a X.
Proof.
by move=> T T_inv; rewrite /mha /cross /= !basis_cancel // mulmx_lsub mulmx1 mul_mx_row row_mxKl.
Qed.

Definition select_kv (R : comUnitRingType) n s u t dq e dout
    (a : attention R n n (s + u + t) (s + u + t) dq s u e dout) U' :=
  let T := row_mx (row_mx (W_K a) (W_V a)) U' in let units := lsubmx (1%:M : 'M_(s + u + t)) in
  Attention (core a) (invmx T *m W_Q a) (lsubmx units) (rsubmx units) (W_O a).

Theorem select_keys_values (R : comUnitRingType) n s u t dq e dout
    (a : attention R n n (s + u + t) (s + u + t) dq s u e dout) (U' : 'M_(s + u + t, t)) X :
  let T := row_mx (row_mx (W_K a) (W_V a)) U' in T \in unitmx -> mha (select_kv a U') (X *m T) = mha a X.
Proof.
move=> T T_inv; rewrite /mha /cross /= !basis_cancel // mulmx_lsub mulmx_rsub mulmx_lsub.
by rewrite mulmx1 !mul_mx_row row_mxKl row_mxKl row_mxKr.
Qed.
Print Assumptions select_keys.
Print Assumptions select_keys_values.

(** A wide [WQ] with a right inverse [P] can also go, over any ring; the stream
    becomes as wide as the queries. *)
Definition without_wide_q (R : ringType) n d p dk dv e dout (a : attention R n n d d p dk dv e dout)
    (P : 'M_(p, d)) := Attention (core a) 1%:M (P *m W_K a) (P *m W_V a) (W_O a).

Theorem wide_query (R : ringType) n d p dk dv e dout (a : attention R n n d d p dk dv e dout) P X :
  W_Q a *m P = 1%:M -> mha (without_wide_q a P) (X *m W_Q a) = mha a X.
Proof.
by move=> QP; rewrite /mha /cross /= mulmx1 !mulmxA -!(mulmxA X (W_Q a)) QP mulmx1.
Qed.
Print Assumptions wide_query.

(** Cross-attention reads two inputs, hence has two bases, hence two of the three
    projections can become identities together: [WQ], and [WK] or [WV]. *)
Section TwoGauges.
Variables (R : comUnitRingType) (n m d dz dq dk dv e dout : nat).

Definition without_qk (a : attention R n m d dz d dz dv e dout) :=
  Attention (core a) 1%:M 1%:M (invmx (W_K a) *m W_V a) (W_O a).
Definition without_qv (a : attention R n m d dz d dk dz e dout) :=
  Attention (core a) 1%:M (invmx (W_V a) *m W_K a) 1%:M (W_O a).

Theorem cross_attention_two_gauges (X : 'M_(n, d)) (Z : 'M_(m, dz)) :
  [/\ forall (a : attention R n m d dz dq dk dv e dout) T P, T \in unitmx -> P \in unitmx ->
        cross (change_bases a T P) (X *m T) (Z *m P) = cross a X Z,
      forall a, W_Q a \in unitmx -> W_K a \in unitmx ->
        cross (without_qk a) (X *m W_Q a) (Z *m W_K a) = cross a X Z
    & forall a, W_Q a \in unitmx -> W_V a \in unitmx ->
        cross (without_qv a) (X *m W_Q a) (Z *m W_V a) = cross a X Z].
Proof.
split=> [a T P T_inv P_inv|a Q_inv K_inv|a Q_inv V_inv].
- exact: change_bases_cross.
- by rewrite /cross /= !mulmx1 basis_cancel.
- by rewrite /cross /= !mulmx1 basis_cancel.
Qed.
End TwoGauges.
Print Assumptions cross_attention_two_gauges.

(** One head needs no basis at all: its scores see only [WQ *m WK^T], and its
    output only [WV *m WO].  [A] is any map from scores to patterns. *)
Section SingleHead.
Variables (R : comRingType) (n d p dv dout : nat) (A : 'M[R]_n -> 'M[R]_n).

Definition single_head w v (Q K : 'M[R]_(n, w)) (V : 'M_(n, v)) := A (Q *m K^T) *m V.

Definition merge_single_head (WQ WK : 'M[R]_(d, p)) (WV : 'M_(d, dv)) (WO : 'M_(dv, dout)) :=
  Attention (single_head (v := d)) 1%:M (WK *m WQ^T) 1%:M (WV *m WO).

Theorem single_head_merge WQ WK WV WO X :
  mha (merge_single_head WQ WK WV WO) X = mha (Attention (single_head (v := dv)) WQ WK WV WO) X.
Proof. by rewrite /mha /cross /= /single_head !trmx_mul trmxK !mulmx1 !mulmxA. Qed.
End SingleHead.
Print Assumptions single_head_merge.

(** [T] costs nothing if every write to the stream can absorb it. *)
Theorem where_theta_goes (R : ringType) n d r (w : 'I_r -> nat)
    (U : forall k, 'M[R]_(n, w k)) (W : forall k, 'M_(w k, d)) (T : 'M_d) :
  (\sum_k U k *m W k) *m T = \sum_k U k *m (W k *m T).
Proof. by rewrite mulmx_suml; apply: eq_bigr => k _; rewrite mulmxA. Qed.
Print Assumptions where_theta_goes.

(** After elimination the scores of head [h] are linear in one learned matrix. *)
Definition eliminated_scores (R : ringType) n H (w : 'I_H -> nat) h
    (X : 'M[R]_(n, \sum_h w h)) (K : 'M_(\sum_h w h, w h)) := submxrow X h *m (X *m K)^T.

Theorem logits_one_matrix (R : comUnitRingType) n H (w : 'I_H -> nat) h
    (X : 'M[R]_(n, \sum_h w h)) (WQ : 'M_(\sum_h w h)) : WQ \in unitmx ->
  (forall WK : 'M_(\sum_h w h, w h),
     submxrow (X *m WQ) h *m (X *m WK)^T = eliminated_scores (X *m WQ) (invmx WQ *m WK)) /\
  (forall (Y : 'M[R]_(n, \sum_h w h)) c (K L : 'M_(\sum_h w h, w h)),
     eliminated_scores Y (c *: K + L) = c *: eliminated_scores Y K + eliminated_scores Y L).
Proof.
move=> Q_inv; split=> [WK|Y c K L]; first by rewrite /eliminated_scores basis_cancel.
by rewrite /eliminated_scores mulmxDr -scalemxAr linearP mulmxDr -scalemxAr.
Qed.
Print Assumptions logits_one_matrix.

(** ** A block: attention, then an MLP, each with or without a skip *)
Record block (R : ringType) (n d dq dk dv e h1 h2 : nat) := Block {
  attn : attention R n n d d dq dk dv e d;
  act : 'M[R]_(n, h1) -> 'M[R]_(n, h2);
  W_up : 'M[R]_(d, h1);  W_down : 'M[R]_(h2, d);
  attention_skip : bool;  mlp_skip : bool }.

Definition run_block R n d dq dk dv e h1 h2 (b : block R n d dq dk dv e h1 h2) X :=
  let Y := if attention_skip b then X + mha (attn b) X else mha (attn b) X in
  let M := act b (Y *m W_up b) *m W_down b in
  if mlp_skip b then Y + M else M.

(** The same with all biases; those of the two writes, [bO] and [bD], are rows of the stream. *)
Definition run_block_biased R n d dq dk dv e h1 h2 (b : block R n d dq dk dv e h1 h2)
    (bQ : 'rV_dq) (bK : 'rV_dk) (bV : 'rV_dv) (bO : 'rV_d) (bU : 'rV_h1) (bD : 'rV_d) X :=
  let A := mha_biased (attn b) bQ bK bV bO X in
  let Y := if attention_skip b then X + A else A in
  let M := act b (Y *m W_up b + ones *m bU) *m W_down b + ones *m bD in
  if mlp_skip b then Y + M else M.

Section Rebase.
Variables (R : comUnitRingType) (n d dq dk dv e h1 h2 : nat).
Implicit Types (b : block R n d dq dk dv e h1 h2) (enter leave : 'M[R]_d).

(** Reads [X *m enter] where [b] read [X]; writes [M *m leave] where [b] wrote [M]. *)
Definition rebase b enter leave := let a := attn b in
  Block (Attention (core a) (invmx enter *m W_Q a) (invmx enter *m W_K a) (invmx enter *m W_V a) (W_O a *m enter))
        (act b) (invmx enter *m W_up b) (W_down b *m leave) (attention_skip b) (mlp_skip b).

Lemma rebase_attention b enter leave X : enter \in unitmx ->
  mha (attn (rebase b enter leave)) (X *m enter) = mha (attn b) X *m enter.
Proof. by move=> E_inv; rewrite /mha /cross /= !basis_cancel // mulmxA. Qed.

(** Without a skip around the MLP the two bases are independent ... *)
Theorem rebase_block b enter leave X : enter \in unitmx -> mlp_skip b = false ->
  run_block (rebase b enter leave) (X *m enter) = run_block b X *m leave.
Proof.
move=> E_inv no_skip; rewrite /run_block rebase_attention //= no_skip.
by case: (attention_skip b); rewrite -?mulmxDl basis_cancel // mulmxA.
Qed.

(** ... with it, the skip carries the entering basis to the exit. *)
Theorem rebase_block_one_basis b enter X : enter \in unitmx ->
  run_block (rebase b enter enter) (X *m enter) = run_block b X *m enter.
Proof.
move=> E_inv; rewrite /run_block rebase_attention //=.
by case: (attention_skip b); case: (mlp_skip b);
  rewrite -?mulmxDl basis_cancel // ?mulmxDl mulmxA ?mulmxDl.
Qed.

(** Biases on the products stay; biases on the stream move with it. *)
Theorem rebase_block_biased b enter leave bQ bK bV bO bU bD X :
  enter \in unitmx -> mlp_skip b = false ->
  run_block_biased (rebase b enter leave) bQ bK bV (bO *m enter) bU (bD *m leave) (X *m enter)
  = run_block_biased b bQ bK bV bO bU bD X *m leave.
Proof.
move=> E_inv no_skip; rewrite /run_block_biased.
have -> : mha_biased (attn (rebase b enter leave)) bQ bK bV (bO *m enter) (X *m enter)
        = mha_biased (attn b) bQ bK bV bO X *m enter.
  by rewrite /mha_biased /= !basis_cancel // mulmxDl !mulmxA.
rewrite /= no_skip.
by case: (attention_skip b); rewrite -?mulmxDl basis_cancel // [RHS]mulmxDl !mulmxA.
Qed.
End Rebase.
Print Assumptions rebase_block.
Print Assumptions rebase_block_one_basis.
Print Assumptions rebase_block_biased.

(** ** A stack of blocks with a skip around attention only loses every [WQ]

    The stream enters each block in the basis that is the block's own [WQ]; the
    MLP before it writes in that basis, and before the first block the embedding
    does.  Inner widths may differ from block to block. *)
Section EliminateQueries.
Variables (R : comUnitRingType) (n d : nat).

Record layer := Layer {
  width_k : nat;  width_v : nat;  width_e : nat;  width_up : nat;  width_down : nat;
  body : block R n d d width_k width_v width_e width_up width_down }.

Definition query l := W_Q (attn (body l)).

Definition run_blocks := foldl (fun X l => run_block (body l) X).

(** [leave] is the basis in which the next block reads. *)
Definition layer_without_q l (leave : 'M[R]_d) := let b := body l in let T := query l in
  Layer (Block (Attention (core (attn b)) 1%:M (invmx T *m W_K (attn b)) (invmx T *m W_V (attn b)) (W_O (attn b) *m T))
               (act b) (invmx T *m W_up b) (W_down b *m leave) (attention_skip b) (mlp_skip b)).

Definition entering ls : 'M[R]_d := if ls is l :: _ then query l else 1%:M.

Fixpoint blocks_without_q ls :=
  if ls is l :: rest then layer_without_q l (entering rest) :: blocks_without_q rest else [::].

Definition no_mlp_skip l := ~~ mlp_skip (body l).

Lemma run_layer_without_q l leave X : query l \in unitmx -> no_mlp_skip l ->
  run_block (body (layer_without_q l leave)) (X *m query l) = run_block (body l) X *m leave.
Proof.
move=> Q_inv /negbTE no_skip; rewrite -(rebase_block leave X Q_inv no_skip).
by rewrite /layer_without_q /rebase /= /query mulVmx.
Qed.

Lemma run_blocks_without_q ls X : all (fun l => query l \in unitmx) ls -> all no_mlp_skip ls ->
  run_blocks (X *m entering ls) (blocks_without_q ls) = run_blocks X ls.
Proof.
elim: ls X => [|l ls IH] X /=; first by rewrite mulmx1.
by case/andP=> Q_inv Qs_inv /andP[no_skip no_skips]; rewrite run_layer_without_q ?IH.
Qed.

(** Embedding, positions, blocks, readout. *)
Record network v w := Network {
  embedding : 'M[R]_(v, d);  positions : 'M[R]_(n, d);  blocks : seq layer;  readout : 'M[R]_(d, w) }.

Definition run_network v w (N : network v w) (tokens : 'M_(n, v)) :=
  run_blocks (tokens *m embedding N + positions N) (blocks N) *m readout N.

Definition network_without_q v w (N : network v w) := let T := entering (blocks N) in
  Network (embedding N *m T) (positions N *m T) (blocks_without_q (blocks N)) (readout N).

Theorem eliminate_queries v w (N : network v w) :
  all (fun l => query l \in unitmx) (blocks N) -> all no_mlp_skip (blocks N) ->
  all (fun l => query l == 1%:M) (blocks (network_without_q N)) /\
  forall tokens, run_network (network_without_q N) tokens = run_network N tokens.
Proof.
move=> Qs_inv no_skips; split=> [|tokens].
  by rewrite /=; elim: (blocks N) => //= l ls ->; rewrite eqxx.
by rewrite /run_network /= mulmxA -mulmxDl run_blocks_without_q.
Qed.
End EliminateQueries.
Print Assumptions eliminate_queries.
