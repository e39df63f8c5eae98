(** * Queries equal to keys

    The scores are then a Gram matrix, and the attention map is a reversible
    Markov chain.  [phi] is any positive function in the place of
    [s |-> exp s]; each theorem names the other properties of the exponential
    it uses. *)
From mathcomp Require Import all_ssreflect all_algebra.
From QKV Require Import ThreeProducts Reparametrization.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import Order.TTheory GRing.Theory Num.Theory.
Local Open Scope ring_scope.

(** ** Symmetric scores

    [rotate rot K] turns row [i] of [K] by [rot i]; without rotary positions
    every [rot i] is the identity.  [B] is an additive bias.  A weight is
    [phi] of a score, and zero where the mask forbids it. *)
Definition rotate (R : ringType) n p (rot : 'I_n -> 'M[R]_p) (K : 'M[R]_(n, p)) : 'M_(n, p) :=
  \matrix_(i < n) (row i K *m rot i).

Definition scores (R : ringType) n p (alpha : R) rot (Q K : 'M[R]_(n, p)) (B : 'M[R]_n) : 'M_n :=
  alpha *: (rotate rot Q *m (rotate rot K)^T) + B.

Definition weights (R : ringType) n (phi : R -> R) (mask : 'I_n -> 'I_n -> bool) (S : 'M[R]_n) :=
  \matrix_(i, j) if mask i j then phi (S i j) else 0.

(** Equal projections, equal biases, a symmetric bias: symmetric scores; with a
    symmetric mask, symmetric weights.  The rotations are arbitrary matrices. *)
Theorem qk_symmetric_scores (R : comRingType) n d p (phi : R -> R) (alpha : R) rot mask
    (X : 'M[R]_(n, d)) (WQ WK : 'M_(d, p)) (bQ bK : 'rV_p) (B : 'M_n) :
  WQ = WK -> bQ = bK -> B^T = B -> (forall i j, mask i j = mask j i) ->
  let S := scores alpha rot (X *m WQ + ones *m bQ) (X *m WK + ones *m bK) B in
  S^T = S /\ (weights phi mask S)^T = weights phi mask S.
Proof.
move=> <- <- B_sym mask_sym S.
have S_sym : S^T = S by rewrite [LHS]linearD linearZ /= trmx_mul trmxK B_sym.
split=> //; move: S S_sym => S S_sym; apply/matrixP=> i j.
by rewrite [LHS]mxE ![_ (weights _ _ _) _ _]mxE mask_sym -[in RHS]S_sym [S^T i j]mxE.
Qed.
Print Assumptions qk_symmetric_scores.

(** A bias that depends only on the distance of the two tokens is symmetric. *)
Lemma distance_bias_symmetric (R : ringType) n (b : nat -> R) :
  let B := \matrix_(i < n, j < n) b (maxn i j - minn i j)%N in B^T = B.
Proof. by move=> B; apply/matrixP=> i j; rewrite !mxE maxnC minnC. Qed.
Print Assumptions distance_bias_symmetric.

(** ** From weights to the map

    [A i j = E i j / (sum of row i of E)].  The softmax of scores [S] is the
    case [E i j = phi (S i j)]; masked weights are zero. *)
Section Map.
Variables (R : numFieldType) (n : nat).
Implicit Types (E : 'M[R]_n) (i j : 'I_n).

Definition total E i := \sum_j E i j.
Definition normalize E := \matrix_(i, j) (E i j / total E i).

Lemma total_gt0 E i : (forall i j, 0 < E i j) -> 0 < total E i.
Proof.
move=> E_gt0; rewrite /total (bigD1 i) //= ltr_paddr //.
by apply: sumr_ge0 => j _; apply: ltW.
Qed.

Lemma total_normalize E i j : 0 < total E i -> total E i * normalize E i j = E i j.
Proof. by move=> t_gt0; rewrite mxE mulrC divfK ?gt_eqF. Qed.

Lemma row_sum E i : 0 < total E i -> \sum_j normalize E i j = 1.
Proof. by move=> t_gt0; under eq_bigr do rewrite mxE; rewrite -mulr_suml mulfV ?gt_eqF. Qed.

(** Positive entries, rows that sum to one. *)
Theorem row_stochastic E : (forall i j, 0 < E i j) ->
  (forall i j, 0 < normalize E i j) /\ (forall i, \sum_j normalize E i j = 1).
Proof.
move=> E_gt0; have t_gt0 i := total_gt0 i E_gt0; split=> [i j|i]; last exact: row_sum.
by rewrite mxE divr_gt0.
Qed.

(** Symmetric weights do not make the map symmetric, unless all row sums agree. *)
Theorem softmax_not_symmetric E : (forall i j, 0 < E i j) -> E^T = E ->
  (normalize E)^T = normalize E <-> forall i j, total E i = total E j.
Proof.
move=> E_gt0 E_sym; have sym i j : E j i = E i j by rewrite -[in RHS]E_sym mxE.
have inv_inj i j : (E i j / total E j == E i j / total E i) = (total E i == total E j).
  by rewrite (inj_eq (mulfI (lt0r_neq0 (E_gt0 i j)))) (inj_eq (@invr_inj _)) eq_sym.
split=> [/matrixP A_sym i j|same].
  by apply/eqP; rewrite -inv_inj; have := A_sym i j; rewrite !mxE sym => ->.
by apply/matrixP=> i j; rewrite !mxE sym; apply/eqP; rewrite inv_inj (same i j).
Qed.
End Map.
Print Assumptions row_stochastic.
Print Assumptions softmax_not_symmetric.

(** The softmax is a map of this kind. *)
Lemma softmaxE (R : numFieldType) (phi : R -> R) n (S : 'M[R]_n.+1) :
  softmax phi S = normalize (map_mx phi S).
Proof.
by apply/matrixP=> i j; rewrite !mxE; congr (_ / _); apply: eq_bigr => k _; rewrite mxE.
Qed.

(** ** Detailed balance

    [p i] is the (not normalized) probability of token [i]. *)
Definition balanced (R : ringType) n (p : 'I_n -> R) (A : 'M[R]_n) :=
  forall i j, p i * A i j = p j * A j i.

Definition reversible (R : numDomainType) n (A : 'M[R]_n) :=
  exists p : 'I_n -> R, (forall i, 0 < p i) /\ balanced p A.

Section Balance.
Variables (R : numFieldType) (n : nat).
Implicit Types (E : 'M[R]_n).

(** Symmetric weights: the map is in balance with its row sums.  Some weights
    may be zero, as under a symmetric mask, if no row is. *)
Theorem detailed_balance E : (forall i, 0 < total E i) -> E^T = E -> balanced (total E) (normalize E).
Proof. by move=> t_gt0 E_sym i j; rewrite !total_normalize // -[in LHS]E_sym mxE. Qed.

(** The row sums are a stationary measure. *)
Theorem stationary E : (forall i, 0 < total E i) -> E^T = E ->
  (\row_i total E i) *m normalize E = \row_i total E i.
Proof.
move=> t_gt0 E_sym; apply/rowP=> j; rewrite !mxE.
under eq_bigr => i _ do rewrite [(\row__ _) _ _]mxE (detailed_balance t_gt0 E_sym).
by rewrite -mulr_sumr row_sum // mulr1.
Qed.

Theorem symmetric_reversible E : (forall i, 0 < total E i) -> E^T = E -> reversible (normalize E).
Proof. by move=> t_gt0 E_sym; exists (total E); split=> //; apply: detailed_balance. Qed.

(** Balance with the row sums says exactly that the weights are symmetric. *)
Theorem balance_iff_symmetric E : (forall i, 0 < total E i) ->
  balanced (total E) (normalize E) <-> E^T = E.
Proof.
move=> t_gt0; split=> [balance|]; last exact: detailed_balance.
by apply/matrixP=> i j; rewrite mxE -[LHS]total_normalize // balance total_normalize.
Qed.
End Balance.
Print Assumptions detailed_balance.
Print Assumptions stationary.
Print Assumptions symmetric_reversible.
Print Assumptions balance_iff_symmetric.

(** ** Kolmogorov's criterion: three-cycles *)
Definition cycles_agree (R : ringType) n (A : 'M[R]_n) := forall i j k,
  A i j * A j k * A k i = A i k * A k j * A j i.

Definition score_cycles_agree (R : ringType) n (S : 'M[R]_n) := forall i j k,
  S i j + S j k + S k i = S i k + S k j + S j i.

Lemma regroup (R : comRingType) (a b c x y z : R) :
  (a * b * c) * (x * y * z) = (a * x) * (b * y) * (c * z).
Proof. by rewrite mulrACA; congr (_ * _); rewrite mulrACA. Qed.

(** A reversible chain runs around a triangle equally often in both directions. *)
Theorem kolmogorov_necessary (R : numFieldType) n (A : 'M[R]_n) : reversible A -> cycles_agree A.
Proof.
case=> p [p_gt0 balance] i j k.
have p_neq0 : p i * p j * p k != 0 by rewrite !mulf_neq0 ?gt_eqF.
apply: (mulfI p_neq0).
rewrite regroup (balance i j) (balance j k) (balance k i) -regroup.
rewrite (mulrC _ (p i)) (mulrA (p i)); congr (_ * _).
by rewrite mulrC mulrA mulrAC.
Qed.
Print Assumptions kolmogorov_necessary.

(** For a positive map three-cycles suffice. *)
Theorem kolmogorov_converse (R : numFieldType) n (A : 'M[R]_n.+1) :
  (forall i j, 0 < A i j) -> cycles_agree A -> balanced (fun i => A ord0 i / A i ord0) A /\ reversible A.
Proof.
move=> A_gt0 cycles; have balance : balanced (fun i => A ord0 i / A i ord0) A.
  move=> i j; have A_neq0 k : A k ord0 != 0 by rewrite gt_eqF.
  by rewrite mulrAC [RHS]mulrAC; apply/eqP; rewrite eqr_div // cycles.
by split=> //; exists (fun i => A ord0 i / A i ord0); split=> // i; rewrite divr_gt0.
Qed.
Print Assumptions kolmogorov_converse.

(** Two tokens are always reversible. *)
Theorem two_tokens_reversible (R : numFieldType) (A : 'M[R]_2) :
  (forall i j, 0 < A i j) -> reversible A.
Proof.
move=> A_gt0; exists (fun i => A (rev_ord i) i); split=> // i j.
have [-> //|i_neq_j] := eqVneq i j.
suff [-> ->] : rev_ord i = j /\ rev_ord j = i by rewrite mulrC.
by case: i j i_neq_j => [[|[|//]] ?] [[|[|//]] ?] //= _; split; apply/val_inj.
Qed.
Print Assumptions two_tokens_reversible.

(** For a softmax the row sums cancel around a cycle. *)
Section ScoreCycles.
Variables (R : numFieldType) (phi : R -> R).
Hypothesis phi_gt0 : forall s, 0 < phi s.

Lemma softmax_gt0 n (S : 'M[R]_n.+1) i j : 0 < softmax phi S i j.
Proof. by rewrite softmaxE; apply: (row_stochastic _).1 => k l; rewrite mxE. Qed.

Lemma cycles_softmax n (S : 'M[R]_n.+1) : cycles_agree (softmax phi S) <-> cycles_agree (map_mx phi S).
Proof.
have cycle i j k : softmax phi S i j * softmax phi S j k * softmax phi S k i
    = (phi (S i j) * phi (S j k) * phi (S k i)) / (Z phi S i * Z phi S j * Z phi S k).
  by rewrite !mxE !mulf_div.
have swap i j k : Z phi S i * Z phi S k * Z phi S j = Z phi S i * Z phi S j * Z phi S k by rewrite mulrAC.
have Z_inv i j k : (Z phi S i * Z phi S j * Z phi S k)^-1 != 0.
  by rewrite invr_eq0 !mulf_neq0 // (Z_neq0 phi_gt0).
split=> agree i j k; have := agree i j k; rewrite !cycle (swap i j k) !mxE; last by move=> ->.
exact: (mulIf (Z_inv i j k)).
Qed.

(** The criterion in the scores.  Of the exponential: sums become products, and it is injective. *)
Theorem cycle_identity_scores n (S : 'M[R]_n.+1) :
  (forall s t, phi (s + t) = phi s * phi t) -> injective phi ->
  reversible (softmax phi S) <-> score_cycles_agree S.
Proof.
move=> phiD phi_inj; have agree : cycles_agree (softmax phi S) <-> score_cycles_agree S.
  rewrite cycles_softmax; split=> agree i j k; first by have := agree i j k; rewrite !mxE -!phiD => /phi_inj.
  by rewrite !mxE -!phiD agree.
split=> [/kolmogorov_necessary/agree //|/agree cycles].
by have [] := kolmogorov_converse (softmax_gt0 S) cycles.
Qed.
End ScoreCycles.
Print Assumptions cycle_identity_scores.

(** ** Maps that are not reversible *)

(** Three tokens, [X] and [WQ] the identity, [WK] a cyclic shift. *)
Theorem general_not_reversible (R : numFieldType) (phi : R -> R) :
  (forall s, 0 < phi s) -> phi 1 != phi 0 ->
  let shift : 'M[R]_3 := \matrix_(i, j) (i == j + 1)%:R in
  ~ reversible (softmax phi ((1%:M *m 1%:M) *m (1%:M *m shift)^T)).
Proof.
move=> phi_gt0 phi_01 shift /kolmogorov_necessary/(cycles_softmax phi_gt0)/(_ 0 1 2%:R).
rewrite !mul1mx !mxE /= -!expr2 -!exprSr => cubes.
by case/eqP: phi_01; apply: (pexpIrn (n := 3)); rewrite ?nnegrE ?ltW.
Qed.
Print Assumptions general_not_reversible.

(** One forbidden direction is enough; so no causal map of two or more tokens is reversible. *)
Lemma one_way_not_reversible (R : numFieldType) n (A : 'M[R]_n) i j :
  A i j = 0 -> A j i != 0 -> ~ reversible A.
Proof.
move=> Aij Aji [p [p_gt0 balance]]; have /eqP := balance i j.
by rewrite Aij mulr0 eq_sym mulf_eq0 (negPf Aji) gt_eqF.
Qed.

Theorem causal_not_reversible (R : numFieldType) (phi : R -> R) n (S : 'M[R]_n.+2) :
  (forall s, 0 < phi s) -> ~ reversible (normalize (weights phi (fun i j => (j <= i)%N) S)).
Proof.
move=> phi_gt0; set E := weights _ _ S.
have E_ge0 i j : 0 <= E i j by rewrite mxE; case: ifP => // _; apply: ltW.
have E10 : 0 < E (lift ord0 ord0) ord0 by rewrite mxE /=.
apply: (@one_way_not_reversible _ _ _ ord0 (lift ord0 ord0)); rewrite !mxE ?mul0r //=.
rewrite mulf_neq0 ?invr_eq0 ?gt_eqF //.
by rewrite /total (bigD1 ord0) //= ltr_paddr // sumr_ge0.
Qed.
Print Assumptions one_way_not_reversible.
Print Assumptions causal_not_reversible.

(** ** Gram matrices: what equal queries and keys add to symmetry

    [gram K i j] is the inner product of keys [i] and [j]. *)
Definition gram (R : ringType) n p (K : 'M[R]_(n, p)) := K *m K^T.

Definition psd (R : numDomainType) n (M : 'M[R]_n) := forall x : 'rV_n, 0 <= (x *m M *m x^T) 0 0.

Lemma gramE (R : ringType) n p (K : 'M[R]_(n, p)) i j : gram K i j = \sum_l K i l * K j l.
Proof. by rewrite mxE; apply: eq_bigr => l _; rewrite mxE. Qed.

Lemma gram_sym (R : comRingType) n p (K : 'M[R]_(n, p)) : (gram K)^T = gram K.
Proof. by rewrite /gram trmx_mul trmxK. Qed.

Lemma scaleE (R : ringType) m n (a : R) (M : 'M[R]_(m, n)) i j : (a *: M) i j = a * M i j.
Proof. by rewrite mxE. Qed.

Lemma gram_psd (R : realDomainType) n p (K : 'M[R]_(n, p)) : psd (gram K).
Proof.
move=> x; rewrite /gram mulmxA -mulmxA -trmx_mul -/(gram (x *m K)) gramE.
by apply: sumr_ge0 => l _; rewrite -expr2 sqr_ge0.
Qed.

(** The squared distance of two keys is not negative. *)
Lemma gram_pair (R : realDomainType) n p (K : 'M[R]_(n, p)) i j :
  gram K i j *+ 2 <= gram K i i + gram K j j.
Proof.
rewrite -subr_ge0 !gramE -big_split -sumrMnl -sumrB; apply: sumr_ge0 => l _ /=.
by rewrite -!expr2 addrAC -sqrrB sqr_ge0.
Qed.

(** Three nested classes of score matrices [X *m M *m X^T]: equal projections
    give symmetric [M] without negative directions; a diagonal between two equal
    projections gives symmetric [M]; two projections give every [M] of rank at
    most [p]. *)
Theorem gram_restriction (R : realFieldType) d p :
  [/\ forall W : 'M[R]_(d, p), let M := gram W in [/\ M^T = M, psd M & (\rank M <= p)%N],
      forall (W : 'M[R]_(d, p)) D, let M := W *m diag_mx D *m W^T in M^T = M /\ (\rank M <= p)%N
    & forall M : 'M[R]_d, (\rank M <= p)%N <-> exists WQ WK : 'M_(d, p), M = WQ *m WK^T].
Proof.
have rank_le (A : 'M[R]_(d, p)) (B : 'M_(p, d)) : (\rank (A *m B) <= p)%N.
  exact: leq_trans (mxrankM_maxl A B) (rank_leq_col A).
split=> [W M|W D M|M].
- split; [by rewrite /M gram_sym | exact: gram_psd | exact: rank_le].
- split; [by rewrite /M !trmx_mul trmxK tr_diag_mx mulmxA | exact: rank_le].
split=> [r_le_p|[WQ [WK ->]]]; last exact: rank_le.
exists (col_ebase M *m pid_mx (\rank M)), ((pid_mx (\rank M) *m row_ebase M)^T).
by rewrite trmxK mulmxA -(mulmxA (col_ebase M)) mul_pid_mx minnn (minn_idPr r_le_p) mulmx_ebase.
Qed.
Print Assumptions gram_restriction.

(** ** One head cannot swap a pair

    [alpha] is the scale of the scores.  Of the exponential: [phi s ^ 2 <= phi a
    * phi b] as soon as [2 s <= a + b]. *)
Section PairBound.
Variables (R : realFieldType) (phi : R -> R) (n p : nat) (alpha : R).
Implicit Types (K : 'M[R]_(n.+1, p)).
Hypothesis phi_gt0 : forall s, 0 < phi s.
Hypothesis alpha_ge0 : 0 <= alpha.

Lemma scaled_pair K i j : (alpha *: gram K) i j *+ 2 <= (alpha *: gram K) i i + (alpha *: gram K) j j.
Proof. by rewrite !scaleE -mulrnAr -mulrDr ler_wpmul2l // gram_pair. Qed.

Lemma softmax_sum (S : 'M[R]_n.+1) i : \sum_j softmax phi S i j = 1.
Proof. by rewrite softmaxE; apply: (row_stochastic _).2 => k l; rewrite mxE. Qed.

Theorem pair_bound K i j :
  (forall s a b, s *+ 2 <= a + b -> phi s ^+ 2 <= phi a * phi b) -> i != j ->
  let A := softmax phi (alpha *: gram K) in A i j * A j i <= A i i * A j j /\ A i j + A j i <= 1.
Proof.
move=> phi_mid i_neq_j A; have gt0 k l : 0 < A k l := softmax_gt0 phi_gt0 _ k l.
have bound : A i j * A j i <= A i i * A j j.
  rewrite /A !softmaxE ![normalize _ _ _]mxE !mulf_div ler_pmul2r; last first.
    by rewrite invr_gt0 mulr_gt0 // total_gt0 // => k l; rewrite mxE.
  have -> : map_mx phi (alpha *: gram K) j i = map_mx phi (alpha *: gram K) i j.
    by rewrite [LHS]mxE [RHS]mxE !scaleE -[in LHS]gram_sym [(_^T) _ _]mxE.
  by rewrite -expr2 ![map_mx _ _ _ _]mxE; apply/phi_mid/scaled_pair.
split=> //; have row_le k l : k != l -> A k k <= 1 - A k l.
  move=> k_neq_l; rewrite ler_subr_addr -(softmax_sum (alpha *: gram K) k) (bigD1 k) //= ler_add2l.
  by rewrite (bigD1 l) 1?eq_sym //= ler_addl sumr_ge0 // => m _; apply/ltW/gt0.
have : A i j * A j i <= (1 - A i j) * (1 - A j i).
  by apply: le_trans bound _; apply: ler_pmul; rewrite ?(ltW (gt0 _ _)) ?row_le // eq_sym.
by rewrite mulrBl mul1r mulrBr mulr1 opprB addrCA ler_addl addrAC -addrA -opprD subr_ge0 addrC.
Qed.

(** Reversal and swap send every token to a partner: at most one half of the
    mass arrives, on average. *)
Theorem reverse_swap_consequence K (sigma : 'I_n.+1 -> 'I_n.+1) :
  (forall s a b, s *+ 2 <= a + b -> phi s ^+ 2 <= phi a * phi b) ->
  involutive sigma -> (forall i, sigma i != i) ->
  let A := softmax phi (alpha *: gram K) in
  (\sum_i A i (sigma i)) *+ 2 <= n.+1%:R /\ forall i, A i (sigma i) + A (sigma i) i <= 1.
Proof.
move=> phi_mid sigmaK no_fix A; have pair i : A i (sigma i) + A (sigma i) i <= 1.
  have i_neq : i != sigma i by rewrite eq_sym.
  by have [] := pair_bound K phi_mid i_neq.
split=> //; rewrite mulr2n {2}(reindex_inj (inv_inj sigmaK)) /= -big_split /=.
rewrite -[X in X%:R](card_ord n.+1) -sum1_card natr_sum; apply: ler_sum => i _.
by rewrite sigmaK.
Qed.
End PairBound.
Print Assumptions pair_bound.
Print Assumptions reverse_swap_consequence.

(** Two heads can do it.  [u i] are orthonormal; in the first half the key is
    [u i], and the partner's key points the same way and is twice as long.  Then
    the partner wins the row by a fixed gap, which a larger scale makes as
    large as one likes.  The other head does the same for the other half. *)
Theorem two_heads_route (R : realFieldType) n p (u : 'M[R]_(n, p)) (sigma : 'I_n -> 'I_n) (half : pred 'I_n) :
  gram u = 1%:M -> (forall i, half (sigma i) = ~~ half i) -> involutive sigma ->
  let K := \matrix_(i < n) (if half i then row i u else 2%:R *: row (sigma i) u) in
  forall i j, half i -> j != sigma i -> gram K i j + 1 <= gram K i (sigma i).
Proof.
move=> orthonormal half_sigma sigmaK K i j i_half j_neq.
have inner k l : \sum_m u k m * u l m = (k == l)%:R by rewrite -gramE orthonormal mxE.
have -> : gram K i (sigma i) = 2%:R * \sum_m u i m * u i m.
  by rewrite gramE mulr_sumr; apply: eq_bigr => m _; rewrite !mxE half_sigma i_half /= sigmaK !mxE mulrCA.
rewrite inner eqxx mulr1 -[2%:R]/(1 + 1) ler_add2r gramE.
have [j_half|j_other] := boolP (half j).
  under eq_bigr do rewrite !mxE i_half j_half !mxE.
  by rewrite inner lern1 leq_b1.
under eq_bigr do rewrite !mxE i_half (negPf j_other) !mxE mulrCA.
rewrite -mulr_sumr inner; case: eqP => [i_eq|_]; rewrite ?mulr0 ?ler01 //.
by case/eqP: j_neq; rewrite i_eq sigmaK.
Qed.
Print Assumptions two_heads_route.

(** ** Long keys and short keys

    [gram K i i] is the squared norm of key [i]. *)

(** Keys of equal norms: no score in a row exceeds the diagonal one. *)
Theorem equal_norm_diagonal (R : realFieldType) (phi : R -> R) n p alpha (K : 'M[R]_(n.+1, p)) i j :
  0 <= alpha -> (forall s, 0 < phi s) -> {homo phi : s t / s <= t} ->
  (forall k l, gram K k k = gram K l l) ->
  let S := alpha *: gram K in S i j <= S i i /\ softmax phi S i j <= softmax phi S i i.
Proof.
move=> alpha_ge0 phi_gt0 phi_mono norms S; have S_le : S i j <= S i i.
  rewrite /S !scaleE ler_wpmul2l // -(@ler_pmuln2r _ 2) //.
  by rewrite (le_trans (gram_pair K i j)) // (norms j i) -mulr2n.
split=> //; rewrite !softmaxE [X in X <= _]mxE [X in _ <= X]mxE ler_pmul2r; last first.
  by rewrite invr_gt0 total_gt0 // => k l; rewrite mxE.
by rewrite [X in X <= _]mxE [X in _ <= X]mxE phi_mono.
Qed.
Print Assumptions equal_norm_diagonal.

(** To look away from itself a token must have a shorter key than its target.
    Under a causal mask this is what remains. *)
Theorem causal_norm_growth (R : realFieldType) n p alpha (K : 'M[R]_(n, p)) i j :
  0 < alpha -> let S := alpha *: gram K in S i i < S i j -> gram K i i < gram K j j.
Proof.
move=> alpha_gt0 S; rewrite /S !scaleE ltr_pmul2l // -(@ltr_pmuln2r _ 2) // => look_away.
by have := lt_le_trans look_away (gram_pair K i j); rewrite mulr2n ltr_add2l.
Qed.
Print Assumptions causal_norm_growth.

(** Symmetry alone forbids no causal map: mirror its scores.  [T] holds the
    logarithms of a map with zeros after the diagonal. *)
Theorem causal_symmetric_enough (R : numFieldType) (phi : R -> R) n (A T : 'M[R]_n) :
  (forall i, \sum_j A i j = 1) -> (forall i j : 'I_n, (i < j)%N -> A i j = 0) ->
  (forall i j : 'I_n, (j <= i)%N -> phi (T i j) = A i j) ->
  exists S : 'M_n, S^T = S /\ normalize (weights phi (fun i j => (j <= i)%N) S) = A.
Proof.
move=> rows upper lower; pose S : 'M_n := \matrix_(i, j) if (j <= i)%N then T i j else T j i.
exists S; split; first by apply/matrixP=> i j; rewrite !mxE; case: ltngtP => // /val_inj ->.
have -> : weights phi (fun i j => (j <= i)%N) S = A.
  by apply/matrixP=> i j; rewrite !mxE; case: leqP => [/lower //|/upper].
by apply/matrixP=> i j; rewrite mxE /total rows divr1.
Qed.
Print Assumptions causal_symmetric_enough.

(** ** Eigenvalues

    Over an algebraically closed field such as the complex numbers: [0 <= z]
    there says that [z] is real as well. *)
Section Spectrum.
Variables (C : numClosedFieldType).

Definition form n (E : 'M[C]_n) (x : 'I_n -> C) := \sum_i \sum_j x i * E i j * (x j)^*.
Definition hermitian_psd n (E : 'M[C]_n) := forall x, 0 <= form E x.

(** Positive weights without negative directions: every eigenvalue of the map
    is real and lies between 0 and 1. *)
Theorem eigenvalue_unit_interval n (E : 'M[C]_n) (v : 'rV_n) (lambda : C) :
  (forall i j, 0 < E i j) -> hermitian_psd E -> v != 0 -> v *m normalize E = lambda *: v ->
  0 <= lambda <= 1.
Proof.
move=> E_gt0 E_psd v_neq0 eigen; have t_gt0 i := total_gt0 i E_gt0.
have [k vk] : exists k, v 0 k != 0.
  apply/existsP; apply: contraNT v_neq0 => /existsPn v0; apply/eqP/rowP=> k.
  by have := v0 k; rewrite negbK mxE => /eqP.
have eigen_at j : \sum_i v 0 i * normalize E i j = lambda * v 0 j.
  by have /rowP/(_ j) := eigen; rewrite !mxE.
pose w i := v 0 i / total E i.
have w_form : form E w = lambda * \sum_j total E j * `|w j| ^+ 2.
  rewrite /form exchange_big mulr_sumr; apply: eq_bigr => j _ /=; rewrite -mulr_suml.
  have -> : \sum_i w i * E i j = lambda * v 0 j.
    by rewrite -eigen_at; apply: eq_bigr => i _; rewrite mxE /w mulrAC mulrA.
  by rewrite normCK /w !mulrA; congr (_ * _); rewrite -!mulrA [total E j * _]mulrC divfK // gt_eqF.
have lambda_ge0 : 0 <= lambda.
  have := E_psd w; rewrite w_form pmulr_lge0 // (bigD1 k) //= ltr_paddr //.
    by apply: sumr_ge0 => j _; rewrite mulr_ge0 ?exprn_ge0 // ltW.
  by rewrite mulr_gt0 // exprn_gt0 // normr_gt0 mulf_neq0 // invr_eq0 gt_eqF.
rewrite lambda_ge0 /=; have norm_gt0 : 0 < \sum_j `|v 0 j|.
  by rewrite (bigD1 k) //= ltr_paddr ?normr_gt0 // sumr_ge0.
rewrite -(ler_pmul2r norm_gt0) mul1r mulr_sumr.
have -> : \sum_j `|v 0 j| = \sum_j \sum_i `|v 0 i| * normalize E i j.
  by rewrite exchange_big; apply: eq_bigr => i _; rewrite -mulr_sumr row_sum ?mulr1.
apply: ler_sum => j _; rewrite -[X in X * _]ger0_norm // -normrM -eigen_at.
apply: le_trans (ler_norm_sum _ _ _) _; apply: ler_sum => i _.
by rewrite normrM [X in _ * X]ger0_norm // mxE divr_ge0 // ltW.
Qed.

(** Schur: real keys, any power of the scores, entry by entry. *)
Lemma schur_power n p (K : 'M[C]_(n, p)) m : (forall i l, K i l \is Num.real) ->
  hermitian_psd (\matrix_(i, j) gram K i j ^+ m).
Proof.
move=> K_real; elim: m => [|m IH] x.
  suff -> : form (\matrix_(i, j) gram K i j ^+ 0) x = (\sum_i x i) * (\sum_i x i)^* by rewrite mul_conjC_ge0.
  rewrite rmorph_sum mulr_suml; apply: eq_bigr => i _; rewrite mulr_sumr.
  by apply: eq_bigr => j _; rewrite mxE mulr1.
suff -> : form (\matrix_(i, j) gram K i j ^+ m.+1) x
        = \sum_l form (\matrix_(i, j) gram K i j ^+ m) (fun i => x i * K i l).
  by apply: sumr_ge0 => l _; apply: IH.
rewrite exchange_big; apply: eq_bigr => i _; rewrite exchange_big; apply: eq_bigr => j _ /=.
rewrite [in LHS]mxE exprSr [X in _ ^+ m * X]gramE !mulr_sumr mulr_suml; apply: eq_bigr => l _.
rewrite mxE rmorphM /= (CrealP (K_real j l)) -!mulrA; congr (_ * _).
by rewrite mulrCA; congr (_ * (_ * _)); rewrite mulrC.
Qed.

Lemma score_real n p alpha (K : 'M[C]_(n, p)) i j :
  (forall i l, K i l \is Num.real) -> 0 <= alpha -> (alpha *: gram K) i j \is Num.real.
Proof.
move=> K_real alpha_ge0; rewrite scaleE; apply: realM; first exact: ger0_real.
by rewrite gramE rpred_sum // => l _; apply: realM.
Qed.

(** The exponential is, at any finitely many points, the limit of its partial
    sums, polynomials whose coefficients are not negative. *)
Definition positive_series (phi : C -> C) := forall (points : seq C) (eps : C),
  {subset points <= Num.real} -> 0 < eps ->
  exists q : {poly C}, (forall m, 0 <= q`_m) /\ {in points, forall s, `|phi s - q.[s]| <= eps}.

(** Hence the weights have no negative direction: the limit keeps what the
    polynomials have. *)
Lemma schur_exponential n p (phi : C -> C) alpha (K : 'M[C]_(n, p)) :
  (forall i l, K i l \is Num.real) -> 0 <= alpha -> (forall s, s \is Num.real -> 0 < phi s) ->
  positive_series phi -> hermitian_psd (map_mx phi (alpha *: gram K)).
Proof.
move=> K_real alpha_ge0 phi_gt0 phi_series x; set S := alpha *: gram K; set E := map_mx phi S.
have S_real i j : S i j \is Num.real by apply: score_real.
have S_sym i j : S i j = S j i by rewrite !scaleE -[in LHS]gram_sym mxE.
have E_sym i j : E i j = E j i by rewrite [LHS]mxE [RHS]mxE S_sym.
have E_conj i j : (E i j)^* = E i j by apply/CrealP/gtr0_real; rewrite mxE phi_gt0.
have form_real : form E x \is Num.real.
  apply/CrealP; rewrite rmorph_sum /form exchange_big; apply: eq_bigr => i _.
  rewrite rmorph_sum; apply: eq_bigr => j _; rewrite !rmorphM /= conjCK E_conj E_sym.
  by rewrite mulrC mulrA mulrAC.
rewrite real_leNgt ?real0 //; apply/negP => form_lt0.
pose size := \sum_i \sum_j `|x i| * `|x j|.
have size_ge0 : 0 <= size by do 2!(apply: sumr_ge0 => ? _); rewrite mulr_ge0.
pose eps := - form E x / (size + 1).
have eps_gt0 : 0 < eps by rewrite divr_gt0 ?oppr_gt0 // ltr_paddl.
have [|q [q_ge0 q_near]] := phi_series [seq S i j | i <- enum 'I_n, j <- enum 'I_n] eps _ eps_gt0.
  by move=> s /allpairsP[[i j] [_ _ ->]].
pose P := map_mx (horner q) S.
have P_psd : 0 <= form P x.
  have -> : form P x = \sum_(m < seq.size q) q`_m * alpha ^+ m * form (\matrix_(i, j) gram K i j ^+ m) x.
    rewrite /form; under [RHS]eq_bigr do rewrite mulr_sumr; rewrite [RHS]exchange_big; apply: eq_bigr => i _.
    under [RHS]eq_bigr do rewrite mulr_sumr; rewrite [RHS]exchange_big; apply: eq_bigr => j _ /=.
    rewrite mxE horner_coef mulr_sumr mulr_suml; apply: eq_bigr => m _.
    by rewrite scaleE exprMn mxE !mulrA; congr (_ * _ * _); rewrite -mulrA mulrC.
  by apply: sumr_ge0 => m _; rewrite !mulr_ge0 ?exprn_ge0 // schur_power.
have near : `|form E x - form P x| <= eps * size.
  rewrite /form -sumrB mulr_sumr; apply: le_trans (ler_norm_sum _ _ _) _; apply: ler_sum => i _.
  rewrite -sumrB mulr_sumr; apply: le_trans (ler_norm_sum _ _ _) _; apply: ler_sum => j _.
  rewrite -mulrBl -mulrBr !normrM norm_conjC mulrAC mulrC ler_wpmul2r ?mulr_ge0 //.
  by rewrite [E i j]mxE [P i j]mxE q_near // allpairs_f // mem_enum.
have small : eps * size < - form E x.
  rewrite /eps mulrAC ltr_pdivr_mulr ?ltr_paddl // ltr_pmul2l ?oppr_gt0 // ltr_addl.
  exact: ltr01.
have gap_lt0 : form E x - form P x < 0 by rewrite subr_lt0 (lt_le_trans form_lt0).
have := le_lt_trans near small.
by rewrite ltr0_norm // ltr_opp2 ltr_addl oppr_gt0 le_gtF.
Qed.

(** Equal real queries and keys, no mask: the eigenvalues of the map are real
    and lie between 0 and 1.  Of the exponential: positive at real points, and
    given by a series with coefficients that are not negative. *)
Theorem spectrum_unit_interval n p (phi : C -> C) alpha (K : 'M[C]_(n.+1, p)) (v : 'rV_n.+1) lambda :
  (forall i l, K i l \is Num.real) -> 0 <= alpha -> (forall s, s \is Num.real -> 0 < phi s) ->
  positive_series phi ->
  v != 0 -> v *m softmax phi (alpha *: gram K) = lambda *: v -> 0 <= lambda <= 1.
Proof.
move=> K_real alpha_ge0 phi_gt0 phi_series v_neq0; rewrite softmaxE => eigen.
apply: eigenvalue_unit_interval v_neq0 eigen; last exact: schur_exponential.
by move=> i j; rewrite mxE phi_gt0 // score_real.
Qed.
End Spectrum.
Print Assumptions eigenvalue_unit_interval.
Print Assumptions schur_exponential.
Print Assumptions spectrum_unit_interval.

(** Two tokens: the second eigenvalue is one minus the two swapped masses. *)
Theorem two_token_eigenvalue (R : comRingType) (A : 'M[R]_2) : (forall i, \sum_j A i j = 1) ->
  let v : 'rV[R]_2 := \row_j (if j == 0 then 1 else -1) in
  v *m A = (1 - A 0 1 - A 1 0) *: v.
Proof.
move=> rows v; have two (f : 'I_2 -> R) : \sum_i f i = f 0 + f 1.
  by rewrite big_ord_recl big_ord1; congr (_ + f _); apply: val_inj.
have rest i : A i 0 = 1 - A i 1 by rewrite -(rows i) two addrK.
apply/rowP=> j; rewrite !mxE two !mxE /= mul1r mulN1r.
have [->|->] : j = 0 \/ j = 1 by case: j => [[|[|//]] ?]; [left | right]; apply: val_inj.
  by rewrite rest mulr1.
by rewrite /= mulrN1 (rest 1) 2!opprB [RHS]addrC addrA subrK.
Qed.
Print Assumptions two_token_eigenvalue.

(** ** Which maps are maps of equal queries and keys?

    [T i j] is the logarithm of [p i * A i j].  Of the exponential: sums become
    products, and it is injective. *)
Section Pattern.
Variables (R : realFieldType) (phi : R -> R) (n p : nat).
Implicit Types (T : 'M[R]_n.+1) (pi : 'I_n.+1 -> R).
Hypothesis phi_gt0 : forall s, 0 < phi s.
Hypothesis phiD : forall s t, phi (s + t) = phi s * phi t.

(** Such a map is reversible, and [T] has no negative direction orthogonal to
    [(1, .., 1)], whatever the measure [pi] in which the map is balanced. *)
Theorem qk_pattern_characterisation (K : 'M[R]_(n.+1, p)) pi T : injective phi ->
  let A := softmax phi (gram K) in
  reversible A /\
  ((forall i, 0 < pi i) -> balanced pi A -> (forall i j, phi (T i j) = pi i * A i j) ->
   forall v : 'rV_n.+1, v *m ones = 0 -> 0 <= (v *m T *m v^T) 0 0).
Proof.
move=> phi_inj A; pose E := map_mx phi (gram K).
have E_sym : E^T = E by rewrite /E map_trmx gram_sym.
have t_gt0 i : 0 < total E i by apply: total_gt0 => k l; rewrite mxE.
rewrite /A softmaxE -/E; split=> [|pi_gt0 balance logs v v_sum0]; first exact: symmetric_reversible.
have E_swap i j : E j i = E i j by rewrite -[in LHS]E_sym mxE.
have E_neq0 i j : E i j != 0 by rewrite mxE gt_eqF.
have same_ratio i j : pi i / total E i = pi j / total E j.
  apply: (mulIf (E_neq0 i j)); rewrite mulrAC [RHS]mulrAC -!mulrA; have := balance i j.
  by rewrite [normalize E i j]mxE [normalize E j i]mxE E_swap.
have ratio i j : phi (T i j) = pi 0 / total E 0 * phi (gram K i j).
  by rewrite logs [normalize E i j]mxE mulrCA mulrC (same_ratio 0 i) [E i j]mxE.
pose t := T 0 0 - gram K 0 0; have shift i j : T i j = gram K i j + t.
  apply: (addIr (gram K 0 0)); rewrite -addrA subrK; apply: phi_inj.
  by rewrite !phiD !ratio [RHS]mulrCA mulrA.
have -> : T = gram K + ones *m (const_mx t : 'rV_n.+1).
  by apply/matrixP=> i j; rewrite shift [RHS]mxE [(ones *m _) _ _]mxE big_ord1 !mxE mul1r.
by rewrite mulmxDr mulmxA v_sum0 mul0mx addr0 gram_psd.
Qed.

(** Conversely: let [T] plus a constant be the Gram matrix of some keys.  (If [T]
    is strictly positive in those directions, a large constant makes it so.)
    Then [A] is the map of these keys. *)
Theorem qk_pattern_converse (A : 'M[R]_n.+1) (K : 'M[R]_(n.+1, p)) pi T c :
  (forall i, \sum_j A i j = 1) -> (forall i, 0 < pi i) ->
  (forall i j, phi (T i j) = pi i * A i j) -> T + const_mx c = gram K ->
  softmax phi (gram K) = A.
Proof.
move=> rows pi_gt0 logs <-; rewrite softmaxE; apply/matrixP=> i j; rewrite mxE.
have entry k : map_mx phi (T + const_mx c) i k = pi i * phi c * A i k.
  by rewrite !mxE phiD logs mulrAC.
rewrite /total entry; under eq_bigr do rewrite entry.
by rewrite -mulr_sumr rows mulr1 mulrAC mulfV ?mul1r // mulf_neq0 ?gt_eqF.
Qed.
End Pattern.
Print Assumptions qk_pattern_characterisation.
Print Assumptions qk_pattern_converse.

(** ** How many projections are left to learn?

    [T] is the basis of the stream; every projection [W] becomes [T^-1 W], and one
    that becomes the identity need not be learned. *)
Section ProjectionsLeft.
Variables (R : comUnitRingType) (n d dk e dout : nat).

(** No basis ties what was not tied, or unties what was. *)
Lemma ties_kept p (T : 'M[R]_d) (W W' : 'M_(d, p)) : T \in unitmx -> invmx T *m W = invmx T *m W' <-> W = W'.
Proof. by move=> T_inv; split=> [same|-> //]; rewrite -[W](mulKVmx T_inv) same mulKVmx. Qed.

(** Exactly the projections equal to [T] become identities. *)
Lemma becomes_identity (T W : 'M[R]_d) : T \in unitmx -> (invmx T *m W == 1%:M) = (W == T).
Proof.
by move=> T_inv; apply/eqP/eqP=> [same|->]; rewrite ?mulVmx // -[W](mulKVmx T_inv) same mulmx1.
Qed.

(** The distinct ones that are not the identity. *)
Definition left_to_learn (Ws : seq 'M[R]_d) := seq.size (undup [seq W <- Ws | W != 1%:M]).

(** The number of distinct projections, minus one if [T] is one of them: so no
    basis leaves fewer than [T := WQ] does. *)
Theorem projections_left_count (T : 'M[R]_d) (Ws : seq 'M_d) : T \in unitmx ->
  left_to_learn [seq invmx T *m W | W <- Ws] = (seq.size (undup Ws) - (T \in Ws))%N.
Proof.
move=> T_inv; rewrite /left_to_learn filter_map.
have inj : injective (fun W : 'M[R]_d => invmx T *m W) by move=> W W' /(ties_kept _ _ T_inv).
rewrite (undup_map_inj inj) size_map -filter_undup.
rewrite (@eq_filter _ _ (predC1 T)) => [|W /=]; last by rewrite becomes_identity.
rewrite -rem_filter ?undup_uniq //; case: (boolP (T \in Ws)) => T_in.
  by rewrite size_rem ?mem_undup // subn1.
by rewrite rem_id ?mem_undup // subn0.
Qed.

(** The four variants.  The keys and values may be narrow where they are not
    tied to the queries; tied projections have tied biases, which stay.  After
    the elimination the function is the same, and query, key, value are
    [1, WQ^-1 WK, WQ^-1 WV]; [1, Z, Z]; [1, 1, WQ^-1 WV]; [1, 1, 1]. *)
Definition projections w p q r (a : attention R n n w w p q r e dout) (bQ : 'rV[R]_p) (bK : 'rV[R]_q) (bV : 'rV[R]_r) :=
  ((W_Q a, bQ), (W_K a, bK), (W_V a, bV)).

Theorem projections_left :
  [/\ forall dv (a : attention R n n d d d dk dv e dout) bQ bK bV X, W_Q a \in unitmx ->
        mha_biased (without_q a) bQ bK bV 0 (X *m W_Q a) = mha_biased a bQ bK bV 0 X /\
        projections (without_q a) bQ bK bV
        = ((1%:M, bQ), (invmx (W_Q a) *m W_K a, bK), (invmx (W_Q a) *m W_V a, bV)),
      forall (a : attention R n n d d d dk dk e dout) bQ bK bV, W_Q a \in unitmx ->
        (W_K a, bK) = (W_V a, bV) -> let Z := invmx (W_Q a) *m W_K a in
        projections (without_q a) bQ bK bV = ((1%:M, bQ), (Z, bK), (Z, bK)),
      forall dv (a : attention R n n d d d d dv e dout) bQ bK bV, W_Q a \in unitmx ->
        (W_Q a, bQ) = (W_K a, bK) ->
        projections (without_q a) bQ bK bV = ((1%:M, bQ), (1%:M, bQ), (invmx (W_Q a) *m W_V a, bV))
    & forall (a : attention R n n d d d d d e dout) bQ bK bV, W_Q a \in unitmx ->
        (W_Q a, bQ) = (W_K a, bK) -> (W_K a, bK) = (W_V a, bV) ->
        projections (without_q a) bQ bK bV = ((1%:M, bQ), (1%:M, bQ), (1%:M, bQ))].
Proof.
split=> [dv a bQ bK bV X Q_inv|a bQ bK bV Q_inv [KV bKV]|dv a bQ bK bV Q_inv [QK bQK]|a bQ bK bV Q_inv [QK bQK] [KV bKV]].
- by split; [rewrite eliminate_q_biased | ].
- by rewrite /projections /= -KV -bKV.
- by rewrite /projections /= -QK -bQK mulVmx.
- by rewrite /projections /= -KV -bKV -QK -bQK mulVmx.
Qed.
End ProjectionsLeft.
Print Assumptions ties_kept.
Print Assumptions becomes_identity.
Print Assumptions projections_left_count.
Print Assumptions projections_left.
