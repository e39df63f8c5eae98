(** * Restoring direction

    What a correction of the scores, a bias or a rotation changes in a map whose
    queries equal its keys, and which numbers measure direction.  [phi] is any
    positive function in the place of [s |-> exp s]; each theorem names the other
    properties of the exponential it uses. *)
From mathcomp Require Import all_ssreflect all_algebra.
From QKV Require Import ThreeProducts Reparametrization QueriesEqualKeys.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import Order.TTheory GRing.Theory Num.Theory.
Local Open Scope ring_scope.

(** ** The 2D correction

    The scores [S] are copied to [m] channels, a table [P k] is added to channel
    [k], and the channels are weighed together.  The table is separable if each
    channel depends on the column only, as those in [cols], or on the row only. *)
Definition correction (R : ringType) n l m (w : 'I_m -> R) (b : R) (P : 'I_m -> 'M_(n, l)) (S : 'M[R]_(n, l)) :=
  \sum_k w k *: (S + P k) + const_mx b.

Definition temperature (R : ringType) m (w : 'I_m -> R) := \sum_k w k.

Definition separable (R : ringType) n l m (P : 'I_m -> 'M[R]_(n, l)) (cols : pred 'I_m)
    (r : 'I_m -> 'cV_n) (c : 'I_m -> 'rV_l) :=
  forall k, P k = if cols k then ones *m c k else r k *m ones^T.

Definition key_bias (R : ringType) l m (w : 'I_m -> R) (cols : pred 'I_m) (c : 'I_m -> 'rV[R]_l) :=
  \sum_(k | cols k) w k *: c k.

Definition row_bias (R : ringType) n m (w : 'I_m -> R) b (cols : pred 'I_m) (r : 'I_m -> 'cV[R]_n) :=
  \sum_(k | ~~ cols k) w k *: r k + const_mx b.

Theorem broadcast_conv_form (R : ringType) n l m (w : 'I_m -> R) b (P : 'I_m -> 'M_(n, l)) S :
  correction w b P S = temperature w *: S + \sum_k w k *: P k + const_mx b.
Proof.
congr (_ + _); rewrite scaler_suml -big_split; apply: eq_bigr => k _.
exact: scalerDr.
Qed.
Print Assumptions broadcast_conv_form.

(** A separable correction is a temperature, row constants and a bias per key. *)
Lemma separable_correction (R : comRingType) n l m (w : 'I_m -> R) b (P : 'I_m -> 'M_(n, l)) cols r c S :
  separable P cols r c ->
  correction w b P S = temperature w *: S + ones *m key_bias w cols c + row_bias w b cols r *m ones^T.
Proof.
move=> sep; rewrite broadcast_conv_form -!addrA; congr (_ + _); rewrite (bigID cols) /= -addrA; congr (_ + _).
  by rewrite mulmx_sumr; apply: eq_bigr => k in_cols; rewrite sep in_cols scalemxAr.
rewrite mulmxDl mulmx_suml; congr (_ + _).
  by apply: eq_bigr => k in_rows; rewrite sep (negPf in_rows) scalemxAl.
by apply/matrixP=> i j; rewrite !mxE big_ord1 !mxE mulr1.
Qed.

(** Softmax does not see the row constants, the bias of the convolution among
    them; under a mask neither. *)
Theorem separable_plus_is_temperature (R : numFieldType) (phi : R -> R) n l m (w : 'I_m -> R) b
    (P : 'I_m -> 'M_(n, l.+1)) cols r c S :
  (forall s, 0 < phi s) -> (forall s t, phi (s + t) = phi s * phi t) -> separable P cols r c ->
  softmax phi (correction w b P S) = softmax phi (temperature w *: S + ones *m key_bias w cols c).
Proof. by move=> phi_gt0 phiD sep; rewrite (separable_correction w b S sep) softmax_shift. Qed.
Print Assumptions separable_plus_is_temperature.

Theorem separable_plus_masked (R : numFieldType) (phi : R -> R) n m (w : 'I_m -> R) b mask
    (P : 'I_m -> 'M_n) cols r c S :
  (forall s, 0 < phi s) -> (forall s t, phi (s + t) = phi s * phi t) -> separable P cols r c ->
  normalize (weights phi mask (correction w b P S))
  = normalize (weights phi mask (temperature w *: S + ones *m key_bias w cols c)).
Proof.
move=> phi_gt0 phiD sep; rewrite (separable_correction w b S sep).
move: (temperature w *: S + _) (row_bias _ _ _ _) => T x.
have factor i j : weights phi mask (T + x *m ones^T) i j = phi (x i 0) * weights phi mask T i j.
  rewrite !mxE; case: (mask i j); last by rewrite mulr0.
  by rewrite big_ord1 !mxE mulr1 phiD mulrC.
apply/matrixP=> i j; rewrite [LHS]mxE [RHS]mxE /total factor; under eq_bigr do rewrite factor.
by rewrite -mulr_sumr -mulf_div mulfV ?mul1r // gt_eqF.
Qed.
Print Assumptions separable_plus_masked.

(** Symmetric scores lose their symmetry by two vectors of rank one. *)
Theorem separable_rank_two (F : fieldType) n m (w : 'I_m -> F) b (P : 'I_m -> 'M_n) cols r c S :
  S^T = S -> separable P cols r c ->
  let S' := correction w b P S in let u := row_bias w b cols r - (key_bias w cols c)^T in
  S' - S'^T = u *m ones^T - ones *m u^T /\ (\rank (S' - S'^T)%R <= 2)%N.
Proof.
move=> S_sym sep S' u; have skew : S' - S'^T = u *m ones^T - ones *m u^T.
  rewrite /u /S' (separable_correction w b S sep); move: (key_bias _ _ _) (row_bias _ _ _ _) => x y.
  have -> : (temperature w *: S + ones *m x + y *m ones^T)^T = temperature w *: S + x^T *m ones^T + ones *m y^T.
    by rewrite !linearD /= linearZ /= S_sym !trmx_mul trmxK.
  rewrite [(y - x^T)^T]linearB /= trmxK mulmxBl mulmxBr; move: (temperature w *: S) => a.
  move: (ones *m x) (y *m _) (x^T *m _) (ones *m y^T) => p q p' q'.
  by rewrite opprB -[a + p + q]addrA -[a + p' + q']addrA opprD [LHS]addrACA subrr add0r [p + q]addrC opprD addrACA.
split=> //; rewrite skew; apply: leq_trans (mxrank_add _ _) _; rewrite mxrank_opp.
by apply: (@leq_add _ _ 1 1); apply: leq_trans (mxrankM_maxl _ _) (rank_leq_col _).
Qed.
Print Assumptions separable_rank_two.

(** ** Still reversible

    At any temperature.  If the scores with the key bias on both sides are a Gram
    matrix up to a constant, it is the map of the keys of that matrix. *)
Theorem plus_reversible (R : realFieldType) (phi : R -> R) n m (w : 'I_m -> R) b (P : 'I_m -> 'M_n.+1) cols r c S :
  (forall s, 0 < phi s) -> (forall s t, phi (s + t) = phi s * phi t) -> S^T = S -> separable P cols r c ->
  let A := softmax phi (correction w b P S) in let bias := key_bias w cols c in
  let S' := temperature w *: S + ones *m bias in
  [/\ balanced (fun i => Z phi S' i * phi (bias 0 i)) A, reversible A
    & forall p (K : 'M_(n.+1, p)) t, S' + bias^T *m ones^T + const_mx t = gram K -> softmax phi (gram K) = A].
Proof.
move=> phi_gt0 phiD S_sym sep A bias S'; have AE : A = softmax phi S' by apply: separable_plus_is_temperature.
have sym i j : S i j = S j i by rewrite -[in LHS]S_sym mxE.
have balance : balanced (fun i => Z phi S' i * phi (bias 0 i)) A.
  have entry k l : Z phi S' k * phi (bias 0 k) * A k l = phi (S' k l + bias 0 k).
    by rewrite AE [softmax _ _ _ _]mxE mulrAC [Z _ _ _ * _]mulrC divfK ?(Z_neq0 phi_gt0) // phiD.
  by move=> i j; rewrite !entry !mxE !big_ord1 !mxE !mul1r sym addrAC.
split=> // [|p K t <-].
  exists (fun i => Z phi S' i * phi (bias 0 i)); split=> // i; rewrite mulr_gt0 // /Z (bigD1 i) //= ltr_paddr //.
  by rewrite sumr_ge0 // => j _; apply: ltW.
have -> : S' + bias^T *m ones^T + const_mx t = S' + (bias^T + const_mx t) *m ones^T.
  by rewrite mulmxDl addrA; congr (_ + _); apply/matrixP=> i j; rewrite !mxE big_ord1 !mxE mulr1.
by rewrite softmax_shift.
Qed.
Print Assumptions plus_reversible.

(** ** The sign of the temperature

    Of the exponential: sums become products, and it does not fall. *)
Lemma pair_bound_scores (R : realFieldType) (phi : R -> R) n (T : 'M[R]_n.+1) i j :
  (forall s, 0 < phi s) -> (forall s t, phi (s + t) = phi s * phi t) -> {homo phi : s t / s <= t} -> i != j ->
  T i j + T j i <= T i i + T j j -> let A := softmax phi T in A i j * A j i <= A i i * A j j /\ A i j + A j i <= 1.
Proof.
move=> phi_gt0 phiD phi_mono i_neq_j pair A; have gt0 k l : 0 < A k l := softmax_gt0 phi_gt0 _ k l.
have bound : A i j * A j i <= A i i * A j j.
  rewrite /A ![softmax _ _ _ _]mxE !mulf_div -!phiD ler_pmul2r ?phi_mono //.
  by rewrite invr_gt0 mulr_gt0 // /Z (bigD1 i) //= ltr_paddr // sumr_ge0 // => k _; apply: ltW.
split=> //; have row_le k l : k != l -> A k k <= 1 - A k l.
  move=> k_neq_l; rewrite ler_subr_addr -(softmax_sum phi_gt0 T k) (bigD1 k) //= ler_add2l.
  by rewrite (bigD1 l) 1?eq_sym //= ler_addl sumr_ge0 // => m _; apply/ltW/gt0.
have : A i j * A j i <= (1 - A i j) * (1 - A j i).
  by apply: le_trans bound _; apply: ler_pmul; rewrite ?(ltW (gt0 _ _)) ?row_le // eq_sym.
by rewrite mulrBl mul1r mulrBr mulr1 opprB addrCA ler_addl addrAC -addrA -opprD subr_ge0 addrC.
Qed.

(** Rows and keys cancel around a pair; the squared distance of the keys is left. *)
Theorem plus_pair_bound_sign (R : realFieldType) (phi : R -> R) n p m (w : 'I_m -> R) b (P : 'I_m -> 'M_n.+1) cols r c
    alpha (K : 'M[R]_(n.+1, p)) i j :
  (forall s, 0 < phi s) -> (forall s t, phi (s + t) = phi s * phi t) -> {homo phi : s t / s <= t} ->
  0 <= alpha -> separable P cols r c -> i != j ->
  let S' := correction w b P (alpha *: gram K) in let A := softmax phi S' in
  S' i i + S' j j - (S' i j + S' j i) = temperature w * alpha * (gram K i i + gram K j j - gram K i j *+ 2) /\
  (0 <= temperature w -> A i j * A j i <= A i i * A j j /\ A i j + A j i <= 1).
Proof.
move=> phi_gt0 phiD phi_mono alpha_ge0 sep i_neq_j S' A.
have cancels : S' i i + S' j j - (S' i j + S' j i) = temperature w * alpha * (gram K i i + gram K j j - gram K i j *+ 2).
  rewrite /S' (separable_correction w b _ sep); set s := temperature w; set x := key_bias _ _ _; set y := row_bias _ _ _ _.
  have entry k l : (s *: (alpha *: gram K) + ones *m x + y *m ones^T) k l = s * alpha * gram K k l + (x 0 l + y k 0).
    by rewrite [LHS]mxE [in LHS]mxE !scaleE ![(_ *m _) _ _ in LHS]mxE !big_ord1 !mxE mul1r mulr1 -addrA mulrA.
  have gram_swap : gram K j i = gram K i j by rewrite -[in LHS]gram_sym mxE.
  rewrite !entry gram_swap mulrBr mulrDr mulr2n mulrDr addrACA [in X in _ - X]addrACA opprD addrACA.
  have -> : x 0 j + y i 0 + (x 0 i + y j 0) = x 0 i + y i 0 + (x 0 j + y j 0) by rewrite addrACA [x 0 j + _]addrC addrACA.
  by rewrite subrr addr0.
split=> // s_ge0; apply: pair_bound_scores => //; rewrite -subr_ge0 cancels mulr_ge0 ?mulr_ge0 //.
by rewrite subr_ge0 gram_pair.
Qed.
Print Assumptions plus_pair_bound_sign.

(** At a negative temperature both can fail: two tokens with opposite keys, one
    channel with an empty table. *)
Theorem plus_pair_bound_fails (R : realFieldType) (phi : R -> R) (s : R) :
  (forall t, 0 < phi t) -> {homo phi : t u / t < u} -> s < 0 ->
  let K := \matrix_(i < 2, j < 1) (-1) ^+ i in
  let A := softmax phi (correction (fun=> s) 0 (fun _ : 'I_1 => 0 : 'M_2) (gram K)) in
  A 0 0 * A 1 1 < A 0 1 * A 1 0 /\ 1 < A 0 1 + A 1 0.
Proof.
move=> phi_gt0 phi_mono s_lt0 K A; have two (f : 'I_2 -> R) : \sum_i f i = f 0 + f 1.
  by rewrite big_ord_recl big_ord1; congr (_ + f _); apply: val_inj.
pose x := phi s / (phi s + phi (- s)); pose y := phi (- s) / (phi s + phi (- s)).
have entry i j : A i j = if i == j then x else y.
  have scoresE k l : correction (fun=> s) 0 (fun _ : 'I_1 => 0 : 'M_2) (gram K) k l = if k == l then s else - s.
    rewrite /correction big_ord1 addr0 mxE [const_mx _ _ _]mxE addr0 scaleE gramE big_ord1 !mxE.
    by case: k l => [[|[|//]] ?] [[|[|//]] ?]; rewrite /= !(expr0, expr1, mulr1, mul1r, mulrN1, opprK).
  rewrite mxE /Z two !scoresE.
  by case: i j => [[|[|//]] ?] [[|[|//]] ?]; rewrite //= [phi (- s) + _]addrC.
have sum_gt0 : 0 < phi s + phi (- s) by rewrite addr_gt0.
have x_lt_y : x < y by rewrite ltr_pmul2r ?invr_gt0 // phi_mono // (lt_trans s_lt0) // oppr_gt0.
have x_gt0 : 0 < x by rewrite divr_gt0.
rewrite !entry /=; split; first by rewrite ltr_pmul // ltW.
by rewrite -(mulfV (lt0r_neq0 sum_gt0)) mulrDl ltr_add2r.
Qed.
Print Assumptions plus_pair_bound_fails.

(** ** Positions *)

Lemma gather (V : zmodType) (a b c x y z : V) : (a + x) + (b + y) + (c + z) = (a + b + c) + (x + y + z).
Proof. by rewrite (addrACA a) addrACA. Qed.

Lemma pair_up (V : zmodType) (x y z x' y' z' : V) :
  (x + y + z) - (z' + y' + x') = (x - x') + (y - y') + (z - z').
Proof. by rewrite gather !opprD; congr (_ + _); rewrite addrC (addrC (- z')) addrA. Qed.

(** Relative biases [b (j - i)].  Of the exponential: sums become products, and
    it is injective.  The map stays reversible exactly if the odd part of [b]
    is linear. *)
Theorem relative_bias_criterion (R : numFieldType) (phi : R -> R) n (S : 'M[R]_n.+1) (b : int -> R) :
  (forall s, 0 < phi s) -> (forall s t, phi (s + t) = phi s * phi t) -> injective phi -> S^T = S ->
  let S' := \matrix_(i, j) (S i j + b (Posz j - Posz i)) in
  reversible (softmax phi S') <->
  exists slope, forall t : nat, (t <= n)%N -> b (Posz t) - b (- Posz t) = slope * t%:R.
Proof.
move=> phi_gt0 phiD phi_inj S_sym S'; rewrite cycle_identity_scores //.
pose beta t := b t - b (- t); have S_swap i j : S j i = S i j by rewrite -[in LHS]S_sym mxE.
have beta_opp t : beta (- t) = - beta t by rewrite /beta opprK opprB.
(* the symmetric part of the scores drops out of the cycle identity *)
have cycles : score_cycles_agree S' <-> forall i j k : 'I_n.+1,
    beta (Posz j - Posz i) + beta (Posz k - Posz j) = beta (Posz k - Posz i).
  have defect i j k : S' i j + S' j k + S' k i - (S' i k + S' k j + S' j i)
      = beta (Posz j - Posz i) + beta (Posz k - Posz j) - beta (Posz k - Posz i).
    rewrite pair_up !mxE /beta !opprB (S_swap i j) (S_swap i k) (S_swap j k).
    have drop (a u v : R) : a + u - (a + v) = u - v by rewrite opprD addrACA subrr add0r.
    by rewrite !drop.
  split=> agree i j k; apply/eqP; rewrite -subr_eq0; first by rewrite -defect agree subrr.
  by rewrite defect agree subrr.
rewrite cycles -/beta; split=> [additive|[slope linear]].
  exists (beta 1); elim=> [|t IH] t_le; first by rewrite oppr0 subrr mulr0.
  have := additive (inord 0) (inord t) (inord t.+1).
  rewrite !inordK ?subr0 // ?ltnS ?(ltnW t_le) //.
  have -> : Posz t.+1 - Posz t = 1 by rewrite -addn1 PoszD addrC addKr.
  by move=> step; transitivity (beta (Posz t.+1)) => //; rewrite -step [beta (Posz t)]IH ?(ltnW t_le) // -[in RHS]addn1 natrD mulrDr mulr1.
have beta_linear i j : (i <= n)%N -> (j <= n)%N -> beta (Posz j - Posz i) = slope * (j%:R - i%:R).
  move=> i_le j_le; have [i_le_j|j_lt_i] := leqP i j.
    by rewrite subzn // -natrB // -linear // (leq_trans (leq_subr _ _)).
  rewrite -opprB beta_opp subzn ?(ltnW j_lt_i) // -opprB mulrN -natrB ?(ltnW j_lt_i) //.
  by rewrite -linear // (leq_trans (leq_subr _ _)).
by move=> i j k; rewrite !beta_linear -1?ltnS // -mulrDr addrC addrA subrK.
Qed.
Print Assumptions relative_bias_criterion.

(** Rotary positions, [rot s *m (rot t)^T = rot (s - t)]: the scores are the Gram
    matrix of the rotated keys, and these have the norms of the keys.  So every
    statement about Gram matrices above holds as it stands. *)
Theorem rope_changes_nothing (R : realFieldType) n p (rot : int -> 'M[R]_p) (K : 'M[R]_(n, p)) :
  (forall s t, rot s *m (rot t)^T = rot (s - t)) -> rot 0 = 1%:M ->
  let S := \matrix_(i, j) (row i K *m rot (Posz i - Posz j) *m (row j K)^T) 0 0 in
  let K' := rotate (fun i : 'I_n => rot (Posz i)) K in
  [/\ S = gram K', forall i, gram K' i i = gram K i i, S^T = S & psd S].
Proof.
move=> rot_mul rot0 S K'; have S_gram : S = gram K'.
  apply/matrixP=> i j; rewrite [LHS]mxE -rot_mul !mulmxA -mulmxA -trmx_mul.
  by rewrite [RHS]mxE [LHS]mxE; apply: eq_bigr => l _; rewrite !mxE.
split=> // [i||].
- by rewrite -S_gram mxE subrr rot0 mulmx1 gramE mxE; apply: eq_bigr => l _; rewrite !mxE.
- by rewrite S_gram gram_sym.
- by rewrite S_gram; apply: gram_psd.
Qed.
Print Assumptions rope_changes_nothing.

(** ** Measures of asymmetry

    [frob M] is the squared Frobenius norm; [centre] subtracts means. *)
Definition frob (R : ringType) m n (M : 'M[R]_(m, n)) := \tr (M *m M^T).

Lemma frobE (R : comRingType) m n (M : 'M[R]_(m, n)) : frob M = \sum_i \sum_j M i j ^+ 2.
Proof. by apply: eq_bigr => i _; rewrite mxE; apply: eq_bigr => j _; rewrite mxE. Qed.

Lemma frob_ge0 (R : realDomainType) m n (M : 'M[R]_(m, n)) : 0 <= frob M.
Proof. by rewrite frobE; do 2!(apply: sumr_ge0 => ? _); apply: sqr_ge0. Qed.

Lemma frob_eq0 (R : realDomainType) m n (M : 'M[R]_(m, n)) : frob M = 0 -> M = 0.
Proof.
rewrite frobE => /eqP; rewrite psumr_eq0 => [/allP rows|i _]; last by apply: sumr_ge0 => j _; apply: sqr_ge0.
apply/matrixP=> i j; have := rows i (mem_index_enum _); rewrite /= psumr_eq0 => [/allP row|k _]; last exact: sqr_ge0.
by have := row j (mem_index_enum _); rewrite /= sqrf_eq0 mxE => /eqP.
Qed.

(** Symmetric and skew part share out the whole. *)
Lemma frob_parallelogram (R : comRingType) n (M : 'M[R]_n) : frob (M - M^T) + frob (M + M^T) = frob M *+ 4.
Proof.
have squares (a b : R) : (a - b) ^+ 2 + (a + b) ^+ 2 = a ^+ 2 *+ 2 + b ^+ 2 *+ 2.
  by rewrite sqrrB sqrrD addrACA [X in X + _]addrACA addNr addr0 -!mulr2n.
have -> : frob M *+ 4 = frob M *+ 2 + \sum_i \sum_j M j i ^+ 2 *+ 2.
  rewrite (mulrnDr (frob M) 2 2); congr (_ + _); rewrite frobE exchange_big -sumrMnl.
  by apply: eq_bigr => i _; rewrite -sumrMnl.
rewrite !frobE -sumrMnl -!big_split; apply: eq_bigr => i _ /=.
by rewrite -sumrMnl -!big_split; apply: eq_bigr => j _ /=; rewrite !mxE squares.
Qed.

Lemma frob_symmetric_part (R : comRingType) n (M : 'M[R]_n) :
  frob (M + M^T) = (frob M + \tr (M *m M)) *+ 2.
Proof.
rewrite /frob linearD /= trmxK mulmxDr !mulmxDl !mxtraceD (mxtrace_mulC M^T M).
by rewrite -[M^T *m M^T]trmx_mul mxtrace_tr [X in _ + X]addrC mulr2n.
Qed.

Section Measures.
Variables (R : realFieldType) (n : nat).
Implicit Types (S : 'M[R]_n.+1) (r : 'cV[R]_n.+1) (c : 'rV[R]_n.+1).

Definition centre : 'M[R]_n.+1 := 1%:M - (n.+1%:R)^-1 *: (ones *m ones^T).
Definition centred S := centre *m S *m centre.

Lemma centre_ones : centre *m ones = 0.
Proof.
rewrite mulmxBl mul1mx -scalemxAl -mulmxA.
have -> : (ones : 'cV[R]_n.+1)^T *m ones = (n.+1%:R)%:M.
  by apply/matrixP=> i j; rewrite !ord1 mxE; under eq_bigr do rewrite !mxE mulr1; rewrite sumr_const card_ord mxE.
by rewrite mul_mx_scalar scalerA mulVf ?pnatr_eq0 // scale1r subrr.
Qed.

Lemma centre_sym : centre^T = centre.
Proof. by rewrite /centre linearB linearZ /= trmx1 trmx_mul trmxK. Qed.

Lemma ones_centre : ones^T *m centre = 0.
Proof. by rewrite -[centre]centre_sym -trmx_mul centre_ones trmx0. Qed.

Lemma centredD S T : centred (S + T) = centred S + centred T.
Proof. by rewrite /centred (mulmxDr centre) (mulmxDl (centre *m S)). Qed.

Lemma centred_rows r : centred (r *m ones^T) = 0.
Proof. by rewrite /centred -!mulmxA ones_centre !mulmx0. Qed.

Lemma centred_keys c : centred (ones *m c) = 0.
Proof. by rewrite /centred mulmxA centre_ones !mul0mx. Qed.

Lemma centred_eq0 S : centred S = 0 -> exists r c, S = r *m ones^T + ones *m c.
Proof.
pose c := (n.+1%:R)^-1 *: (ones^T *m S); pose Y := centre *m S; pose r := (n.+1%:R)^-1 *: (Y *m ones).
have YE : Y = S - ones *m c by rewrite /Y mulmxBl mul1mx -scalemxAl -mulmxA scalemxAr.
have -> : centred S = S - ones *m c - r *m ones^T.
  by rewrite -YE /centred -/Y mulmxBr mulmx1 -scalemxAr mulmxA scalemxAl.
by move/eqP; rewrite -addrA -opprD subr_eq0 addrC => /eqP ->; exists r, c.
Qed.

(** The cycle identity says that the skew part is a row constant plus a key bias. *)
Lemma centred_cycles S : centred (S - S^T) = 0 <-> score_cycles_agree S.
Proof.
have skew i j : (S - S^T) i j = S i j - S j i by rewrite !mxE.
split=> [/centred_eq0[r [c skewE]] i j k|agree].
  have entry a b : S a b - S b a = r a 0 + c 0 b.
    by rewrite -skew skewE !mxE !big_ord1 !mxE mulr1 mul1r.
  have cE a : c 0 a = - r a 0 by apply/eqP; rewrite -addr_eq0 addrC -entry subrr.
  apply/eqP; rewrite -subr_eq0 pair_up !entry !cE.
  by rewrite [_ - r j 0 + _]addrA subrK addrA subrK subrr.
have -> : S - S^T = (\col_i (S i 0 - S 0 i)) *m ones^T + ones *m (\row_j (S 0 j - S j 0)).
  apply/matrixP=> i j; rewrite skew [RHS]mxE ![(_ *m _) _ _]mxE !big_ord1 !mxE mulr1 mul1r.
  have /eqP := agree i j 0; rewrite -subr_eq0 pair_up -addrA addr_eq0 => /eqP ->.
  by rewrite opprD !opprB addrC.
by rewrite centredD centred_rows centred_keys addr0.
Qed.

(** How the cycle identity fails. *)
Definition defect S i j k := S i j + S j k + S k i - (S i k + S k j + S j i).

(** What the measures do not see: row constants and key biases vanish under
    centering on both sides, and around every cycle; a temperature scales; the
    gauge [N] of a head drops out; a basis [Theta] of the stream keeps [M]
    symmetric, and an orthogonal one keeps the norm and that of the symmetric part. *)
Theorem asymmetry_measures S r c (s : R) i j k :
  let S' := s *: S + r *m ones^T + ones *m c in
  [/\ centred S' = s *: centred S, defect S' i j k = s * defect S i j k,
      forall d p (WQ WK : 'M[R]_(d, p)) N, N \in unitmx -> (WQ *m N) *m (WK *m (invmx N)^T)^T = WQ *m WK^T,
      forall d (M Theta : 'M[R]_d), M^T = M -> (invmx Theta *m M *m (invmx Theta)^T)^T = invmx Theta *m M *m (invmx Theta)^T
    & forall d (M Theta : 'M[R]_d), Theta^T *m Theta = 1%:M -> let M' := Theta *m M *m Theta^T in
      frob M' = frob M /\ frob (M' + M'^T) = frob (M + M^T)].
Proof.
move=> S'; split=> [||d p WQ WK N N_inv|d M Theta M_sym|d M Theta orthogonal M'].
- by rewrite !centredD centred_rows centred_keys !addr0 /centred -scalemxAr -scalemxAl.
- have entry a b : S' a b = s * S a b + (r a 0 + c 0 b).
    by rewrite !mxE !big_ord1 !mxE mulr1 mul1r addrA.
  rewrite /defect !entry !gather [r i 0 + r k 0 + r j 0]addrAC.
  have -> : c 0 k + c 0 j + c 0 i = c 0 j + c 0 k + c 0 i by rewrite [c 0 k + _]addrC.
  by rewrite opprD addrACA subrr addr0 -!mulrDr -mulrBr.
- by rewrite trmx_mul trmxK mulmxA mulmxK.
- by rewrite !trmx_mul trmxK M_sym mulmxA.
have turned (A : 'M_d) : frob (Theta *m A *m Theta^T) = frob A.
  rewrite /frob !trmx_mul trmxK mxtrace_mulC !mulmxA -(mulmxA _ Theta^T) orthogonal mulmx1.
  by rewrite -!mulmxA mxtrace_mulC -!mulmxA orthogonal mulmx1 mxtrace_mulC.
split; first exact: turned.
by rewrite -[in RHS]turned mulmxDr mulmxDl /M' !trmx_mul trmxK mulmxA.
Qed.

(** The ratio of [frob (centred (S - S^T))] to [4 * frob (centred S)] can be
    computed from the map: its logarithm is [S] up to row constants, which
    centering removes.  The ratio is zero exactly for a reversible map, never exceeds one, and is
    one exactly if the centred scores are skew. *)
Theorem centred_skew_ratio (phi : R -> R) S :
  (forall s, 0 < phi s) -> (forall s t, phi (s + t) = phi s * phi t) -> injective phi ->
  [/\ forall L : 'M_n.+1, (forall i j, phi (L i j) = softmax phi S i j) -> centred L = centred S,
      centred (S - S^T) = 0 <-> reversible (softmax phi S),
      frob (centred (S - S^T)) <= frob (centred S) *+ 4
    & frob (centred (S - S^T)) = frob (centred S) *+ 4 <-> (centred S)^T = - centred S].
Proof.
move=> phi_gt0 phiD phi_inj.
have skewE : centred (S - S^T) = centred S - (centred S)^T.
  by rewrite /centred (mulmxBr centre) (mulmxBl (centre *m S)) !trmx_mul centre_sym !mulmxA.
have share := frob_parallelogram (centred S).
split.
- move=> L logs; have same : softmax phi L = softmax phi S.
    apply/matrixP=> i j; rewrite -[RHS]logs mxE /Z; under eq_bigr do rewrite logs.
    by rewrite softmax_sum // divr1.
  have [r ->] := (row_constants_invisible phi_gt0 phiD phi_inj L S).1 same.
  have := (asymmetry_measures S r 0 1 0 0 0); rewrite /= mulmx0 addr0 !scale1r.
  by case.
- rewrite cycle_identity_scores //; exact: centred_cycles.
- by rewrite skewE -share ler_addl frob_ge0.
- rewrite skewE -share; split=> [/eqP|->].
    rewrite -subr_eq0 opprD addrA subrr add0r oppr_eq0 => /eqP/frob_eq0/eqP.
    by rewrite addrC addr_eq0 => /eqP.
  by rewrite subrr [frob 0]/frob mul0mx mxtrace0 addr0.
Qed.
End Measures.
Print Assumptions asymmetry_measures.
Print Assumptions centred_skew_ratio.

(** *** Weights

    How symmetric is [M = WQ *m WK^T]?  The share of its symmetric part needs
    only products of width [p]. *)
Theorem weight_symmetry_score (R : realFieldType) d p (WQ WK : 'M[R]_(d, p)) :
  let M := WQ *m WK^T in let A := WQ^T *m WQ in let B := WK^T *m WK in let C := WK^T *m WQ in
  [/\ frob M = \tr (A *m B), \tr (M *m M) = \tr (C *m C)
    & M != 0 -> frob (2%:R^-1 *: (M + M^T)) / frob M = 2%:R^-1 * (1 + \tr (C *m C) / \tr (A *m B))].
Proof.
move=> M A B C; have normE : frob M = \tr (A *m B).
  by rewrite /frob /M /A /B trmx_mul trmxK mxtrace_mulC -!mulmxA mxtrace_mulC !mulmxA.
have squareE : \tr (M *m M) = \tr (C *m C).
  by rewrite /M /C -mulmxA mxtrace_mulC !mulmxA.
split=> // M_neq0; rewrite -normE -squareE.
have frob_neq0 : frob M != 0 by apply: contraNneq M_neq0 => /frob_eq0 ->.
have -> : frob (2%:R^-1 *: (M + M^T)) = 2%:R^-1 * (frob M + \tr (M *m M)).
  rewrite [LHS]/frob [(_ *: _)^T]linearZ -scalemxAl -scalemxAr /= !mxtraceZ -/(frob _) frob_symmetric_part.
  by rewrite -[(frob M + _) *+ 2]mulr_natl mulKf ?pnatr_eq0.
by rewrite -mulrA mulrDl mulfV.
Qed.
Print Assumptions weight_symmetry_score.
