(** * Attention sees X only through three products

    Tokens are rows: [X] is [n x d], a weight acts on the right, and [X *m W] is
    the product a learned projection computes.  Everything between the three
    projections and the output projection is an arbitrary function, so what is
    proved here holds for every mask, rotation, norm and softmax at once. *)
From mathcomp Require Import all_ssreflect all_algebra.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import Order.TTheory GRing.Theory Num.Theory.
Local Open Scope ring_scope.

(** ** Many heads, three products

    Head [h] mixes the values with a matrix that [pattern h] computes from its
    own queries and keys in any way it likes.  Heads [h] with the same
    [group h] share keys and values: [group] is the identity for ordinary
    attention and constant for multi-query attention. *)
Section Heads.
Variables (R : ringType) (n d dout H G : nat) (group : 'I_H -> 'I_G).
Variables (dq : 'I_H -> nat) (dk dv : 'I_G -> nat).
Variable pattern : forall h, 'M[R]_(n, dq h) -> 'M[R]_(n, dk (group h)) -> 'M[R]_n.
Variables (WQ : forall h, 'M[R]_(d, dq h)) (WK : forall k, 'M[R]_(d, dk k)).
Variables (WV : forall k, 'M[R]_(d, dv k)) (WO : forall h, 'M[R]_(dv (group h), dout)).

Definition map h (X : 'M_(n, d)) := pattern (X *m WQ h) (X *m WK (group h)).

Definition heads (X : 'M_(n, d)) : 'M_(n, dout) :=
  \sum_h map h X *m (X *m WV (group h)) *m WO h.

(** The function between the products and [WO]: no weight occurs in it. *)
Definition between (q : 'M_(n, \sum_h dq h)) (k : 'M_(n, \sum_k dk k))
    (v : 'M_(n, \sum_k dv k)) : 'M_(n, \sum_h dv (group h)) :=
  \mxrow_h (pattern (submxrow q h) (submxrow k (group h)) *m submxrow v (group h)).

(** A head's query is a block of columns of the one product [X *m [WQ1 .. WQH]]. *)
Theorem three_products X :
  heads X = between (X *m \mxrow_h WQ h) (X *m \mxrow_k WK k) (X *m \mxrow_k WV k)
            *m \mxcol_h WO h.
Proof.
rewrite /between mul_mxrow_mxcol; apply: eq_bigr => h _.
by rewrite !mul_mxrow !mxrowK.
Qed.

(** Given the maps, values and output projection enter only as [WV *m WO]. *)
Theorem value_path_bilinear X :
  heads X = \sum_h map h X *m X *m (WV (group h) *m WO h).
Proof. by apply: eq_bigr => h _; rewrite !mulmxA. Qed.
End Heads.
Print Assumptions three_products.
Print Assumptions value_path_bilinear.

(** ** Any number of linear reads

    The one algebraic fact behind every change of basis: it cancels. *)
Lemma basis_cancel (R : comUnitRingType) n d m
    (T : 'M[R]_d) (X : 'M_(n, d)) (W : 'M_(d, m)) :
  T \in unitmx -> (X *m T) *m (invmx T *m W) = X *m W.
Proof. by move=> T_inv; rewrite -mulmxA mulKVmx. Qed.
Print Assumptions basis_cancel.

(** [r] reads of widths [w], and any function [g] of all of them. *)
Theorem r_products (R : comUnitRingType) n d r (w : 'I_r -> nat) (Omega : Type)
    (g : 'M[R]_(n, \sum_i w i) -> Omega) (W : forall i, 'M_(d, w i)) (T : 'M_d) (X : 'M_(n, d)) :
  T \in unitmx ->
  g (\mxrow_i (X *m T *m (invmx T *m W i))) = g (\mxrow_i (X *m W i)).
Proof. by move=> T_inv; congr g; apply: eq_mxrow => i; rewrite basis_cancel. Qed.
Print Assumptions r_products.

(** ** What the scores depend on

    Without positions: only [WQ *m WK^T].  With rotations [rot i *m (rot j)^T =
    rot (i - j)] (RoPE): only the family [WQ *m rot t *m WK^T]. *)
Theorem scores_bilinear (R : comRingType) n m d dz p
    (X : 'M[R]_(n, d)) (Z : 'M[R]_(m, dz)) (WQ : 'M_(d, p)) (WK : 'M_(dz, p)) :
  (X *m WQ) *m (Z *m WK)^T = X *m (WQ *m WK^T) *m Z^T.
Proof. by rewrite trmx_mul !mulmxA. Qed.
Print Assumptions scores_bilinear.

Theorem scores_bilinear_rope (R : comRingType) d p (rot : int -> 'M[R]_p)
    (WQ WK : 'M[R]_(d, p)) (x y : 'rV_d) i j :
  (forall s t, rot s *m (rot t)^T = rot (s - t)) ->
  (x *m WQ *m rot i) *m (y *m WK *m rot j)^T = x *m (WQ *m rot (i - j) *m WK^T) *m y^T.
Proof. by move=> rotE; rewrite -rotE !trmx_mul !mulmxA. Qed.
Print Assumptions scores_bilinear_rope.

(** ** Softmax ignores row constants

    [phi] plays the exponential.  Three of its properties are used: it is
    positive, it turns sums into products, and it is injective. *)
Definition ones {R : ringType} {n} : 'cV[R]_n := const_mx 1.

Section Softmax.
Variables (R : numFieldType) (phi : R -> R) (n m : nat).
Hypothesis phi_gt0 : forall s, 0 < phi s.
Implicit Types S : 'M[R]_(n, m.+1).          (* at least one key *)

Definition Z S i := \sum_j phi (S i j).
Definition softmax S := \matrix_(i, j) (phi (S i j) / Z S i).

Lemma Z_neq0 S i : Z S i != 0.
Proof.
rewrite /Z (bigD1 ord0) //= gt_eqF // ltr_paddr //.
by apply: sumr_ge0 => j _; apply: ltW.
Qed.

Lemma softmax_rows S : softmax S *m ones = ones.
Proof.
apply/colP=> i; rewrite !mxE; under eq_bigr do rewrite !mxE mulr1.
by rewrite -mulr_suml mulfV ?Z_neq0.
Qed.

Hypothesis phiD : forall s r, phi (s + r) = phi s * phi r.

Lemma softmax_shift S (r : 'cV_n) : softmax (S + r *m ones^T) = softmax S.
Proof.
have shifted i j : phi ((S + r *m ones^T) i j) = phi (S i j) * phi (r i 0).
  by rewrite !mxE big_ord1 !mxE mulr1 phiD.
apply/matrixP=> i j; rewrite [LHS]mxE [RHS]mxE /Z shifted.
under eq_bigr do rewrite shifted.
by rewrite -mulr_suml -mulf_div mulfV ?mulr1 // gt_eqF.
Qed.

Hypothesis phi_inj : injective phi.

Theorem row_constants_invisible S S' :
  softmax S = softmax S' <-> exists r : 'cV_n, S = S' + r *m ones^T.
Proof.
split=> [same|[r ->]]; last exact: softmax_shift.
pose D i j := S i j - S' i j.
have ratio i j : phi (D i j) = Z S i / Z S' i.
  have := congr1 (fun A : 'M_(_, _) => A i j) same; rewrite !mxE => /eqP.
  rewrite eqr_div ?Z_neq0 // => /eqP eqZ.
  have phi_neq0 : phi (S' i j) != 0 by rewrite gt_eqF.
  apply: (mulIf phi_neq0); rewrite -phiD subrK mulrAC.
  by apply: (mulIf (Z_neq0 S' i)); rewrite divfK ?Z_neq0 // eqZ mulrC.
exists (\col_i D i ord0); apply/matrixP=> i j; rewrite !mxE big_ord1 !mxE mulr1.
have -> : D i ord0 = D i j by apply: phi_inj; rewrite !ratio.
by rewrite addrC subrK.
Qed.

(** *** Biases

    A key bias adds the row constants [q_i *m bK^T] to the scores.  [B] is any
    additive mask or position bias, [alpha] any scale. *)
Theorem key_bias_invisible p (alpha : R) (Q : 'M_(n, p)) (K : 'M_(m.+1, p)) (bK : 'rV_p) B :
  softmax (alpha *: (Q *m (K + ones *m bK)^T) + B) = softmax (alpha *: (Q *m K^T) + B).
Proof.
have -> : Q *m (K + ones *m bK)^T = Q *m K^T + Q *m bK^T *m ones^T.
  by rewrite [(_ + _)^T]linearD /= trmx_mul mulmxDr mulmxA.
by rewrite scalerDr addrAC [alpha *: (_ *m ones^T)]scalemxAl softmax_shift.
Qed.
End Softmax.
Print Assumptions row_constants_invisible.
Print Assumptions key_bias_invisible.

(** A query bias, in contrast, is a bias per key. *)
Lemma query_bias_per_key (R : comRingType) n m p
    (Q : 'M[R]_(n, p)) (K : 'M_(m, p)) (bQ : 'rV_p) :
  (Q + ones *m bQ) *m K^T = Q *m K^T + ones *m (bQ *m K^T).
Proof. by rewrite mulmxDl mulmxA. Qed.
Print Assumptions query_bias_per_key.

(** Rows that sum to one carry a value bias through unchanged. *)
Theorem value_bias_folds (R : ringType) n m e dout H (A : 'I_H -> 'M[R]_(n, m))
    (V : 'I_H -> 'M_(m, e)) (bV : 'I_H -> 'rV_e) (WO : 'I_H -> 'M_(e, dout)) (bO : 'rV_dout) :
  (forall h, A h *m ones = ones) ->
  \sum_h A h *m (V h + ones *m bV h) *m WO h + ones *m bO
  = \sum_h A h *m V h *m WO h + ones *m (bO + \sum_h bV h *m WO h).
Proof.
move=> rows_sum_to_one; rewrite mulmxDr mulmx_sumr [ones *m bO + _]addrC addrA -big_split /=.
congr (_ + _); apply: eq_bigr => h _.
by rewrite mulmxDr mulmxDl mulmxA rows_sum_to_one mulmxA.
Qed.
Print Assumptions value_bias_folds.
