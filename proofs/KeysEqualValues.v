(** * Keys equal to values

    One projection, read twice: as what a token is found by, and as what it
    hands over.  [A] is any map from scores to a pattern, so mask, scale,
    position bias and softmax are part of it. *)
From mathcomp Require Import all_ssreflect all_algebra.
From QKV Require Import ThreeProducts Reparametrization QueriesEqualKeys DegreesOfFreedom.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import Order.TTheory GRing.Theory Num.Theory.
Local Open Scope ring_scope.

(** ** When tying keys to values costs nothing

    [(A <= B)%MS]: the rows of [A] lie in the space of the rows of [B]; so
    [(M <= WV^T)%MS] says that the rows of [M] lie in the column space of [WV]. *)
Section Lossless.
Variables (F : fieldType) (d p dout : nat).
Implicit Types (WQ WK WV Z : 'M[F]_(d, p)) (WO : 'M[F]_(p, dout)).

(** A tied head [WQ'], [Z], [Z], [WO'] with the score matrix and the value matrix of a given head. *)
Definition tied_head (M : 'M[F]_d) (N : 'M_(d, dout)) WQ' Z WO' := WQ' *m Z^T = M /\ Z *m WO' = N.

(** Whatever head does it, its key space is the old value space. *)
Lemma tied_space (M : 'M[F]_d) WV WO WQ' Z WO' : row_full WV -> row_free WO ->
  tied_head M (WV *m WO) WQ' Z WO' -> (Z^T :=: WV^T)%MS.
Proof.
move=> V_full O_free [_ values]; have VE : WV = Z *m (WO' *m pinvmx WO).
  by rewrite mulmxA values -mulmxA mulmxVp ?mulmx1.
have V_le_Z : (WV^T <= Z^T)%MS by rewrite VE trmx_mul submxMl.
apply/eqmxP; rewrite andbC; apply/andP; split=> //.
rewrite -(geq_leqif (mxrank_leqif_sup V_le_Z)) !mxrank_tr; apply: leq_trans (rank_leq_col Z) _.
by rewrite (eqP (V_full : \rank WV == p)).
Qed.

Theorem kv_lossless_iff WQ WK WV WO : row_full WV -> row_free WO ->
  let M := WQ *m WK^T in let N := WV *m WO in
  [/\ (exists WQ' Z WO', tied_head M N WQ' Z WO') <-> (M <= WV^T)%MS,
      row_full WQ -> (exists WQ' Z WO', tied_head M N WQ' Z WO') <-> (WK^T <= WV^T)%MS
    & forall B, WK = WV *m B -> tied_head M N (WQ *m B^T) WV WO].
Proof.
move=> V_full O_free M N.
have iff : (exists WQ' Z WO', tied_head M N WQ' Z WO') <-> (M <= WV^T)%MS.
  split=> [[WQ' [Z [WO' tied]]]|/submxP[D ME]]; last by exists D, WV, WO.
  by rewrite -(tied_space V_full O_free tied) -tied.1 submxMl.
split=> // [Q_full|B KE]; last by rewrite /tied_head /M KE trmx_mul mulmxA.
by rewrite iff /M (eqmxMfull _ Q_full).
Qed.
End Lossless.
Print Assumptions tied_space.
Print Assumptions kv_lossless_iff.

(** The construction, from a left inverse [P^T] of [WV = U^T]: the same function. *)
Definition keys_in_values (R : comRingType) n d p dout (A : 'M[R]_n -> 'M[R]_n)
    (WQ WK : 'M[R]_(d, p)) (U : 'M_(p, d)) (WO : 'M_(p, dout)) (P : 'M_(d, p)) :=
  Attention (@single_head _ _ A p p) (WQ *m WK^T *m P) U^T U^T WO.

Theorem keys_in_values_run (R : comRingType) n d p dout (A : 'M[R]_n -> 'M[R]_n)
    (WQ WK : 'M[R]_(d, p)) (U : 'M_(p, d)) (WO : 'M_(p, dout)) P B X : U *m P = 1%:M -> WK = U^T *m B ->
  mha (keys_in_values A WQ WK U WO P) X = mha (Attention (@single_head _ _ A p p) WQ WK U^T WO) X.
Proof.
move=> UP ->; rewrite /mha /cross /= /single_head !trmx_mul !trmxK !mulmxA.
by rewrite -(mulmxA _ U P) UP mulmx1.
Qed.
Print Assumptions keys_in_values_run.

(** Several heads, each with its own [B h]. *)
Theorem keys_in_values_heads (R : comRingType) n d p dout H (A : 'I_H -> 'M[R]_n -> 'M[R]_n)
    (WQ WK WV : 'I_H -> 'M[R]_(d, p)) (WO : 'I_H -> 'M_(p, dout)) B X : (forall h, WK h = WV h *m B h) ->
  \sum_h A h ((X *m (WQ h *m (B h)^T)) *m (X *m WV h)^T) *m (X *m WV h) *m WO h
  = \sum_h A h ((X *m WQ h) *m (X *m WK h)^T) *m (X *m WV h) *m WO h.
Proof. by move=> KB; apply: eq_bigr => h _; rewrite KB !trmx_mul !mulmxA. Qed.
Print Assumptions keys_in_values_heads.

(** One head of full width, [WV] square and invertible: nothing is lost. *)
Theorem kv_single_head_lossless (R : comUnitRingType) n d p dout (A : 'M[R]_n -> 'M[R]_n)
    (WQ WK : 'M[R]_(d, p)) (WV : 'M_d) (WO : 'M_(d, dout)) X : WV \in unitmx ->
  mha (Attention (@single_head _ _ A d d) (WQ *m WK^T *m (invmx WV)^T) WV WV WO) X
  = mha (Attention (@single_head _ _ A p d) WQ WK WV WO) X.
Proof.
move=> V_inv; rewrite /mha /cross /= /single_head !trmx_mul !mulmxA.
by rewrite -(mulmxA (X *m WQ *m WK^T)) -trmx_mul mulmxV // trmx1 mulmx1.
Qed.
Print Assumptions kv_single_head_lossless.

(** ** One object, several names

    Attention with one projection [WZ] in the place of two; the same with the
    scores and the sum as they are written for keyless attention; QVV(3), which
    has one more factor [WR] behind the queries. *)
Section Names.
Variables (R : comRingType) (n d p dout : nat) (A : 'M[R]_n -> 'M[R]_n).
Implicit Types (WQ WZ : 'M[R]_(d, p)) (WO : 'M[R]_(p, dout)).

Definition q_kv WQ WZ WO := mha (Attention (@single_head _ _ A p p) WQ WZ WZ WO).
Definition qv WQ WZ WO X := let Z := X *m WZ in A (X *m WQ *m Z^T) *m Z *m WO.
Definition keyless WQ WZ WO (X : 'M_(n, d)) := A (X *m (WQ *m WZ^T) *m X^T) *m X *m (WZ *m WO).
Definition qvv3 WQ (WR : 'M_p) WZ WO (X : 'M_(n, d)) := A (X *m WQ *m WR *m WZ^T *m X^T) *m X *m (WZ *m WO).

Theorem kv_names_equal WQ WZ WO X : q_kv WQ WZ WO X = qv WQ WZ WO X /\ qv WQ WZ WO X = keyless WQ WZ WO X.
Proof. by split=> //; rewrite /qv /keyless !trmx_mul !mulmxA. Qed.

(** A square factor behind the queries adds no function. *)
Theorem qvv3_equals_qvv2 (f : 'M[R]_(n, d) -> 'M_(n, dout)) :
  (exists WQ WR WZ WO, forall X, f X = qvv3 WQ WR WZ WO X) <-> (exists WQ WZ WO, forall X, f X = keyless WQ WZ WO X).
Proof.
split=> [[WQ [WR [WZ [WO same]]]]|[WQ [WZ [WO same]]]].
  by exists (WQ *m WR), WZ, WO => X; rewrite same /qvv3 /keyless !mulmxA.
by exists WQ, 1%:M, WZ, WO => X; rewrite same /qvv3 /keyless mulmx1 !mulmxA.
Qed.
End Names.
Print Assumptions kv_names_equal.
Print Assumptions qvv3_equals_qvv2.

(** One projection [WZ], two narrow maps behind it: the rank of the scores.  If it
    is wide enough, it gives the scores of any two projections; but then keys and
    values can be read off what is remembered of the tokens, [X *m WZ]. *)
Theorem keyless_rank_bound (F : fieldType) n d dz dh dv (X : 'M[F]_(n, d)) :
  (forall (WZ : 'M_(d, dz)) (RQ : 'M_(dz, dh)) (WR : 'M_(dh, dv)) (RV : 'M_(dz, dv)),
     (\rank (X *m WZ *m RQ *m WR *m RV^T *m WZ^T *m X^T) <= minn dz (minn dh dv))%N) /\
  (forall (WQ : 'M_(d, dh)) (WV : 'M_(d, dv)), (dh + dv <= dz)%N -> exists (WZ : 'M_(d, dz)) RQ RV,
     (forall WR : 'M_(dh, dv), X *m WZ *m RQ *m WR *m RV^T *m WZ^T *m X^T = (X *m WQ) *m WR *m (X *m WV)^T) /\
     X *m WZ *m row_mx RQ RV = row_mx (X *m WQ) (X *m WV)).
Proof.
split=> [WZ RQ WR RV|WQ WV wide].
  have rank_le m k l (B : 'M[F]_(m, k)) (C : 'M_(k, l)) : (\rank (B *m C) <= k)%N.
    exact: leq_trans (mxrankM_maxl B C) (rank_leq_col B).
  by rewrite !leq_min; apply/and3P; split; rewrite -!mulmxA;
     [rewrite mulmxA | rewrite 2!mulmxA | rewrite 3!mulmxA]; apply: rank_le.
pose P : 'M[F]_(dh + dv, dz) := pid_mx (dh + dv); pose P' : 'M[F]_(dz, dh + dv) := pid_mx (dh + dv).
have PP' : P *m P' = 1%:M by rewrite mul_pid_mx minnn (minn_idPr wide) pid_mx_1.
have read k (C : 'M_(dh + dv, k)) : X *m (row_mx WQ WV *m P) *m (P' *m C) = row_mx (X *m WQ) (X *m WV) *m C.
  by rewrite !mulmxA -(mulmxA _ P) PP' mulmx1 mul_mx_row.
exists (row_mx WQ WV *m P), (P' *m col_mx 1%:M 0), (P' *m col_mx 0 1%:M).
have readQ : X *m (row_mx WQ WV *m P) *m (P' *m col_mx 1%:M 0) = X *m WQ.
  by rewrite read mul_row_col mulmx1 mulmx0 addr0.
have readV : X *m (row_mx WQ WV *m P) *m (P' *m col_mx 0 1%:M) = X *m WV.
  by rewrite read mul_row_col mulmx1 mulmx0 add0r.
by split=> [WR|]; [rewrite readQ -!mulmxA -!trmx_mul readV | rewrite mul_mx_row readQ readV].
Qed.
Print Assumptions keyless_rank_bound.

(** ** The outputs of a head, and an energy

    [in_hull K y]: [y] is an average of the rows of [K]. *)
Definition in_hull (R : numDomainType) n p (K : 'M[R]_(n, p)) (y : 'rV_p) :=
  exists w : 'rV_n, [/\ forall j, 0 <= w 0 j, \sum_j w 0 j = 1 & y = w *m K].

(** Before the output projection, so every half-space that holds the keys holds the outputs. *)
Theorem kv_convex_hull (R : numDomainType) n m p (A : 'M[R]_(n, m)) (K : 'M_(m, p)) i :
  (forall k j, 0 <= A k j) -> (forall k, \sum_j A k j = 1) ->
  in_hull K (row i (A *m K)) /\
  forall (f : 'cV_p) c, (forall j, (row j K *m f) 0 0 <= c) -> (row i (A *m K) *m f) 0 0 <= c.
Proof.
move=> A_ge0 rows; split.
  exists (row i A); split=> [j||]; [by rewrite mxE | by under eq_bigr do rewrite mxE | by rewrite row_mul].
move=> f c keys; rewrite row_mul -mulmxA mxE -[c]mul1r -(rows i) mulr_suml.
by apply: ler_sum => j _; rewrite mxE ler_wpmul2l // (le_trans _ (keys j)) // -row_mul [X in _ <= X]mxE.
Qed.
Print Assumptions kv_convex_hull.

(** [F] is the logarithm of the sum of the weights, over [alpha].  Of the
    exponential: positive, sums become products, and it lies above its tangent
    at 0.  A logarithm and a derivative are not needed. *)
Section Energy.
Variables (R : realFieldType) (phi : R -> R) (n p : nat) (alpha : R) (K : 'M[R]_(n.+1, p)).
Hypothesis phi_gt0 : forall s, 0 < phi s.
Hypothesis phiD : forall s t, phi (s + t) = phi s * phi t.
Hypothesis phi_tangent : forall s, 1 + s <= phi s.
Hypothesis alpha_gt0 : 0 < alpha.
Implicit Types (q : 'rV[R]_p).

Definition pattern q := softmax phi (alpha *: (q *m K^T)).
Definition retrieve r (V : 'M_(n.+1, r)) q := pattern q *m V.
Definition inner r (u v : 'rV[R]_r) := (u *m v^T) 0 0.
Variable F : 'rV[R]_p -> R.
Hypothesis F_log : forall q, phi (alpha * F q) = Z phi (alpha *: (q *m K^T)) 0.

Lemma phi_le s t : phi s <= phi t -> s <= t.
Proof.
move=> le; rewrite leNgt; apply/negP => t_lt_s; move: le; rewrite leNgt => /negP[].
rewrite -[s](subrK t) phiD ltr_pmull //; apply: lt_le_trans (phi_tangent _).
by rewrite ltr_addl subr_gt0.
Qed.

Lemma pattern_gt0 q j : 0 < pattern q 0 j.
Proof. by rewrite mxE divr_gt0 // /Z (bigD1 j) //= ltr_paddr // sumr_ge0 // => k _; apply: ltW. Qed.

Lemma pattern_sum q : \sum_j pattern q 0 j = 1.
Proof. by under eq_bigr do rewrite mxE; rewrite -mulr_suml mulfV ?(Z_neq0 phi_gt0). Qed.

(** Jensen's inequality. *)
Lemma jensen q (s : 'I_n.+1 -> R) : phi (\sum_j pattern q 0 j * s j) <= \sum_j pattern q 0 j * phi (s j).
Proof.
set m := \sum_j _; have tangent j : phi m * (1 + (s j - m)) <= phi (s j).
  by have := phi_tangent (s j - m); rewrite -(ler_pmul2l (phi_gt0 m)) -phiD [m + _]addrC subrK.
apply: le_trans (ler_sum _ (fun j _ => ler_wpmul2l (ltW (pattern_gt0 q j)) (tangent j))).
under eq_bigr do rewrite mulrCA; rewrite -mulr_sumr.
under eq_bigr do rewrite mulrDr mulr1 mulrBr; rewrite big_split sumrB /= -mulr_suml pattern_sum mul1r -/m.
by rewrite subrr addr0 mulr1.
Qed.

(** The new weights are the old ones times [phi] of the change in the scores. *)
Lemma shift_scores q q' j : (alpha *: (q' *m K^T)) 0 j = (alpha *: (q *m K^T)) 0 j + alpha * ((q' - q) *m K^T) 0 j.
Proof. by rewrite !mxE -mulrDr -big_split; congr (_ * _); apply: eq_bigr => l _ /=; rewrite !mxE -mulrDl addrC subrK. Qed.

Lemma retrieve_change q q' : phi (alpha * (F q' - F q)) = \sum_j pattern q 0 j * phi (alpha * ((q' - q) *m K^T) 0 j).
Proof.
have Z_inv := Z_neq0 phi_gt0 (alpha *: (q *m K^T)) 0.
apply: (mulIf Z_inv); rewrite -F_log -phiD -mulrDr subrK F_log mulr_suml.
by apply: eq_bigr => j _; rewrite (shift_scores q) phiD [pattern _ _ _]mxE [RHS]mulrAC F_log divfK.
Qed.

(** [F] lies above its tangents, and their slopes are what is retrieved: so the
    change of [F] lies between those slopes at both ends, and what is retrieved
    from the keys, which is continuous, is the gradient of [F]. *)
Lemma retrieve_tangent q q' : inner (retrieve K q) (q' - q) <= F q' - F q.
Proof.
rewrite -(ler_pmul2l alpha_gt0); apply: phi_le; rewrite retrieve_change; apply: le_trans (jensen _ _).
rewrite le_eqVlt; apply/orP; left; apply/eqP; congr phi.
rewrite /inner /retrieve -mulmxA mxE mulr_sumr; apply: eq_bigr => j _; rewrite mulrCA; congr (_ * (_ * _)).
by rewrite -[K in LHS]trmxK -trmx_mul mxE.
Qed.

(** The covariance of keys and values under the pattern. *)
Definition covariance r (V : 'M_(n.+1, r)) q :=
  \sum_j pattern q 0 j *: ((row j K - retrieve K q)^T *m (row j V - retrieve V q)).

Lemma retrieveE r (V : 'M_(n.+1, r)) q : retrieve V q = \sum_j pattern q 0 j *: row j V.
Proof. by rewrite /retrieve mulmx_sum_row. Qed.

Lemma centred_sum r (V : 'M_(n.+1, r)) q : \sum_j pattern q 0 j *: (row j V - retrieve V q) = 0.
Proof. by under eq_bigr do rewrite scalerBr; rewrite sumrB -scaler_suml pattern_sum scale1r -retrieveE subrr. Qed.

Lemma pattern_change q q' j : phi (alpha * (F q' - F q)) * pattern q' 0 j
  = pattern q 0 j * phi (alpha * ((q' - q) *m K^T) 0 j).
Proof.
have ratio : phi (alpha * (F q' - F q)) * Z phi (alpha *: (q *m K^T)) 0 = Z phi (alpha *: (q' *m K^T)) 0.
  by rewrite -!F_log -phiD -mulrDr subrK.
rewrite ![pattern _ _ _]mxE (shift_scores q q') phiD -ratio invfM mulrCA mulVKf ?gt_eqF //.
exact: mulrAC.
Qed.

(** How the retrieved value changes, exactly: by the covariance, and by a rest in
    which the exponential enters only as [phi s - 1 - s], which is of second
    order.  So [alpha] times the covariance is the derivative; for values equal
    to keys it is symmetric and has no negative direction. *)
Theorem kv_gradient_map q q' :
  [/\ inner (retrieve K q) (q' - q) <= F q' - F q <= inner (retrieve K q') (q' - q),
      forall r (V : 'M_(n.+1, r)), let s j := alpha * ((q' - q) *m K^T) 0 j in
        phi (alpha * (F q' - F q)) *: (retrieve V q' - retrieve V q)
        = alpha *: ((q' - q) *m covariance V q)
          + \sum_j (pattern q 0 j * (phi (s j) - 1 - s j)) *: (row j V - retrieve V q)
    & (covariance K q)^T = covariance K q /\ psd (covariance K q)].
Proof.
split; [apply/andP; split; first exact: retrieve_tangent| |split].
- have := retrieve_tangent q' q; rewrite -[q - q']opprB -[F q - F q']opprB /inner linearN mulmxN mxE.
  by rewrite ler_opp2.
- move=> r V s; have -> : phi (alpha * (F q' - F q)) *: (retrieve V q' - retrieve V q)
      = \sum_j (pattern q 0 j * phi (s j)) *: (row j V - retrieve V q).
    rewrite scalerBr [retrieve V q']retrieveE scaler_sumr.
    under eq_bigr do rewrite scalerA pattern_change; under [RHS]eq_bigr do rewrite scalerBr.
    by rewrite sumrB -scaler_suml -retrieve_change.
  have -> : alpha *: ((q' - q) *m covariance V q) = \sum_j (pattern q 0 j * s j) *: (row j V - retrieve V q).
    have inner_key j : (q' - q) *m (row j K)^T = (((q' - q) *m K^T) 0 j)%:M.
      by rewrite tr_row colE mulmxA -colE [LHS]mx11_scalar [_ 0 0 in LHS]mxE.
    have term j : (q' - q) *m (pattern q 0 j *: ((row j K - retrieve K q)^T *m (row j V - retrieve V q)))
        = (pattern q 0 j * ((q' - q) *m K^T) 0 j) *: (row j V - retrieve V q)
          - (q' - q) *m (retrieve K q)^T *m (pattern q 0 j *: (row j V - retrieve V q)).
      rewrite [(_ - _)^T]linearB /=; move: (row j V - _) => u; rewrite mulmxBl scalerBr mulmxBr -!scalemxAr !mulmxA.
      by rewrite inner_key mul_scalar_mx scalerA.
    rewrite /covariance mulmx_sumr; under eq_bigr do rewrite term.
    rewrite sumrB -mulmx_sumr centred_sum mulmx0 subr0 scaler_sumr.
    by apply: eq_bigr => j _; rewrite scalerA mulrCA.
  rewrite -big_split /=; under [RHS]eq_bigr do rewrite -scalerDl -mulrDr addrC subrK mulrBr mulr1 scalerBl.
  by rewrite sumrB centred_sum subr0.
- by rewrite /covariance linear_sum; apply: eq_bigr => j _; rewrite linearZ /= trmx_mul trmxK.
- move=> x; rewrite /covariance mulmx_sumr mulmx_suml summxE; apply: sumr_ge0 => j _.
  rewrite -scalemxAr -scalemxAl mxE mulr_ge0 ?(ltW (pattern_gt0 _ _)) //.
  set u := row j K - _; have -> : x *m (u^T *m u) *m x^T = (x *m u^T) *m (x *m u^T)^T by rewrite trmx_mul trmxK !mulmxA.
  by rewrite mxE; apply: sumr_ge0 => l _; rewrite [(_^T) _ _]mxE -expr2 sqr_ge0.
Qed.

(** Iterating the retrieval decreases the energy, by half the squared step or more. *)
Definition energy q := 2%:R^-1 * inner q q - F q.

Theorem kv_energy_descent q q' : q' = retrieve K q ->
  2%:R^-1 * inner (q - q') (q - q') <= energy q - energy q'.
Proof.
move=> step; have := retrieve_tangent q q'; rewrite -step => tangent.
have innerBl (u v w : 'rV_p) : inner (u - v) w = inner u w - inner v w by rewrite /inner mulmxBl !mxE.
have inner_sym (u v : 'rV_p) : inner u v = inner v u by rewrite /inner -[in LHS](trmxK u) -trmx_mul mxE.
have innerBr (u v w : 'rV_p) : inner w (u - v) = inner w u - inner w v by rewrite !(inner_sym w) innerBl.
have -> : energy q - energy q' = 2%:R^-1 * (inner q q - inner q' q') + (F q' - F q).
  by rewrite /energy mulrBr opprB addrACA [X in _ = X]addrACA [- F q + _]addrC.
rewrite -ler_subl_addl; apply: le_trans tangent; rewrite -mulrBr.
have -> : inner (q - q') (q - q') - (inner q q - inner q' q') = inner q' (q' - q) *+ 2.
  rewrite !innerBr !innerBl (inner_sym q q') !opprB mulr2n.
  by rewrite [inner q q - _ + _]addrC -addrA; congr (_ + _); rewrite addrC addrA subrK.
by rewrite -[inner q' _ *+ 2]mulr_natl mulKf ?pnatr_eq0.
Qed.
End Energy.
Print Assumptions kv_gradient_map.
Print Assumptions kv_energy_descent.

(** ** Rotary positions

    Token [i] stands at [pos i]; [turn pos K] rotates its row by that position.
    The patterns depend on differences of positions only, so whatever is not
    rotated is as good as before.  Rotated keys in the place of values turn with
    the positions, until each output is rotated back. *)
Section Rope.
Variables (R : comRingType) (n p : nat) (rot : int -> 'M[R]_p) (A : 'M[R]_n -> 'M[R]_n) (Q K : 'M[R]_(n, p)).
Hypothesis rot_mul : forall s t, rot s *m (rot t)^T = rot (s - t).
Hypothesis rot0 : rot 0 = 1%:M.
Implicit Types (pos : 'I_n -> int).

Definition turn pos := rotate (fun i => rot (pos i)).
Definition rope_pattern pos := A (turn pos Q *m (turn pos K)^T).
Definition rotated_values pos := rope_pattern pos *m turn pos K.
Definition rotated_back pos := rotate (fun i => (rot (pos i))^T) (rotated_values pos).

Lemma rot_add s t : rot (s + t) = rot s *m rot t.
Proof. by have := rot_mul 0 (- t); rewrite rot0 mul1mx sub0r opprK => <-; rewrite rot_mul opprK. Qed.

Lemma turn_shift pos s (L : 'M_(n, p)) : turn (fun i => pos i + s) L = turn pos L *m rot s.
Proof. by apply/row_matrixP=> i; rewrite row_mul !rowK rot_add mulmxA. Qed.

Theorem kv_rope pos s : let pos' := fun i => pos i + s in
  [/\ forall r (V : 'M_(n, r)), rope_pattern pos' *m V = rope_pattern pos *m V,
      rotated_values pos' = rotated_values pos *m rot s,
      rotated_back pos' = rotated_back pos
    & forall i, row i (rotated_back pos) = \sum_j rope_pattern pos i j *: (row j K *m rot (pos j - pos i))].
Proof.
have rot_unit t : rot t *m (rot t)^T = 1%:M by rewrite rot_mul subrr.
move=> pos'; have same : rope_pattern pos' = rope_pattern pos.
  by rewrite /rope_pattern !turn_shift trmx_mul mulmxA -(mulmxA (turn pos Q)) rot_unit mulmx1.
have turned : rotated_values pos' = rotated_values pos *m rot s.
  by rewrite /rotated_values same turn_shift mulmxA.
split=> // [r V||i]; first by rewrite same.
  apply/row_matrixP=> i; rewrite !rowK turned row_mul -mulmxA; congr (_ *m _).
  by rewrite rot_mul -[RHS]mul1mx -rot0 rot_mul sub0r /pos' opprD addrCA subrr addr0.
rewrite rowK row_mul [row i _ *m turn _ _]mulmx_sum_row mulmx_suml; apply: eq_bigr => j _.
by rewrite mxE rowK -scalemxAl -mulmxA rot_mul.
Qed.
End Rope.
Print Assumptions kv_rope.

(** ** Latent attention

    Keys and values are read from the same [dc] numbers per token.  Each head
    may score and sum these numbers themselves: one key, which is also the value,
    for all heads.  A rotary part of the scores that does not pass through them
    is a part of [A]. *)
Section Latent.
Variables (R : comRingType) (n d dc dout H : nat) (w v : 'I_H -> nat) (A : 'I_H -> 'M[R]_n -> 'M[R]_n).
Variables (WQ : forall h, 'M[R]_(d, w h)) (WUK : forall h, 'M[R]_(dc, w h)).
Variables (WUV : forall h, 'M[R]_(dc, v h)) (WO : forall h, 'M[R]_(v h, dout)).

Definition latent (X : 'M_(n, d)) (C : 'M_(n, dc)) :=
  \sum_h A h ((X *m WQ h) *m (C *m WUK h)^T) *m (C *m WUV h) *m WO h.

Definition keys_are_values (WQ' : 'I_H -> 'M_(d, dc)) (WO' : 'I_H -> 'M_(dc, dout)) (X : 'M_(n, d)) (C : 'M_(n, dc)) :=
  \sum_h A h ((X *m WQ' h) *m C^T) *m C *m WO' h.

Theorem mla_is_kv_on_latent X C :
  latent X C = keys_are_values (fun h => WQ h *m (WUK h)^T) (fun h => WUV h *m WO h) X C.
Proof. by apply: eq_bigr => h _; rewrite trmx_mul !mulmxA. Qed.
End Latent.
Print Assumptions mla_is_kv_on_latent.

(** The new query maps are no wider than a head. *)
Lemma latent_rank (F : fieldType) d dc w (WQ : 'M[F]_(d, w)) (WUK : 'M_(dc, w)) : (\rank (WQ *m WUK^T) <= w)%N.
Proof. exact: leq_trans (mxrankM_maxl _ _) (rank_leq_col _). Qed.
Print Assumptions latent_rank.

(** One head, as the sublayer that is rewritten: the latent is [X *m WC]. *)
Section Absorbed.
Variables (R : comRingType) (n d dc dout w v : nat) (A : 'M[R]_n -> 'M[R]_n).
Variables (WQ : 'M[R]_(d, w)) (WC : 'M[R]_(d, dc)) (WUK : 'M[R]_(dc, w)) (WUV : 'M[R]_(dc, v)) (WO : 'M[R]_(v, dout)).

Definition absorbed := Attention (@single_head _ n A dc dc) (WQ *m WUK^T) WC WC (WUV *m WO).

Theorem absorbed_run X :
  mha absorbed X = mha (Attention (@single_head _ _ A w v) WQ (WC *m WUK) (WC *m WUV) WO) X.
Proof. by rewrite /mha /cross /= /single_head !trmx_mul !mulmxA. Qed.
End Absorbed.
Print Assumptions absorbed_run.

(** ** Kernel attention as a recurrence

    Token [t] is [z t], its query, key and value at once; [phi] is any feature
    map whose values have no negative entry and do not vanish, and token [t] sees
    itself and those before it.  [memory] and [mass] grow by one term per token. *)
Section Sums.
Variables (R : ringType) (p m : nat) (f : nat -> 'rV[R]_m) (z : nat -> 'rV[R]_p).

Fixpoint memory t : 'M_(m, p) := if t is t'.+1 then memory t' + (f t')^T *m z t' else 0.
Fixpoint mass t : 'rV_m := if t is t'.+1 then mass t' + f t' else 0.

(** What the output of token [t] is the quotient of. *)
Definition numerator t := f t *m memory t.+1.
Definition denominator t := f t *m (mass t.+1)^T.
End Sums.

Section Recurrence.
Variables (F : realFieldType) (p m : nat) (phi : 'rV[F]_p -> 'rV[F]_m) (z : nat -> 'rV[F]_p).
Hypothesis phi_ge0 : forall x i, 0 <= phi x 0 i.
Hypothesis phi_neq0 : forall x, phi x != 0.

Definition kernel s t := (phi (z s) *m (phi (z t))^T) 0 0.
Definition weight t j := kernel t j / \sum_(l < t.+1) kernel t l.
Definition attended t := \sum_(j < t.+1) weight t j *: z j.

Definition recurrent t := let f u := phi (z u) in (denominator f t 0 0)^-1 *: numerator f z t.

Theorem tied_recurrence t : recurrent t = attended t /\ \sum_(j < t.+1) weight t j = 1.
Proof.
split.
  have memoryE u : phi (z t) *m memory (fun u => phi (z u)) z u = \sum_(j < u) kernel t j *: z j.
    elim: u => [|u IH] /=; first by rewrite mulmx0 big_ord0.
    by rewrite big_ord_recr mulmxDr IH /= mulmxA [phi (z t) *m (phi _)^T]mx11_scalar mul_scalar_mx.
  have massE u : (phi (z t) *m (mass (fun u => phi (z u)) u)^T) 0 0 = \sum_(l < u) kernel t l.
    elim: u => [|u IH]; first by rewrite /= trmx0 mulmx0 mxE big_ord0.
    by rewrite big_ord_recr [mass _ _.+1]/= [(_ + _)^T]linearD /= mulmxDr mxE IH.
  rewrite /recurrent /denominator /numerator massE memoryE scaler_sumr; apply: eq_bigr => j _.
  by rewrite scalerA mulrC.
have kernel_ge0 s u : 0 <= kernel s u by rewrite /kernel mxE sumr_ge0 // => i _; rewrite [(_^T) _ _]mxE mulr_ge0.
rewrite -mulr_suml mulfV // gt_eqF // big_ord_recr /= ltr_paddl ?sumr_ge0 // lt_neqAle kernel_ge0 andbT.
rewrite eq_sym /kernel mxE psumr_eq0 => [|i _]; last by rewrite [(_^T) _ _]mxE mulr_ge0.
apply: contra (phi_neq0 (z t)) => /allP squares; apply/eqP/rowP=> i; apply/eqP.
by have := squares i (mem_index_enum _); rewrite /= [(_^T) _ _]mxE mulf_eq0 orbb mxE.
Qed.
End Recurrence.
Print Assumptions tied_recurrence.

(** ** What tying after training depends on

    The trained head may come in any gauge [G], [J]: the function is the same.
    Then the values are replaced by the keys, or the keys by the values.  What
    comes out depends on the gauge: any invertible matrix can be made to stand
    between the kept projection and the outputs, or between queries and keys.  If
    the values are an invertible map of the keys, one gauge makes it lossless. *)
Section Posthoc.
Variables (R : comUnitRingType) (n d p dout : nat) (A : 'M[R]_n -> 'M[R]_n).
Variables (WQ WK WV : 'M[R]_(d, p)) (WO : 'M[R]_(p, dout)).

Definition in_gauge := turn_heads (Attention (@single_head _ n A p p) WQ WK WV WO).
Definition keep_k d dk e dout (a : attention R n n d d dk dk dk e dout) :=
  Attention (core a) (W_Q a) (W_K a) (W_K a) (W_O a).
Definition keep_v d dk e dout (a : attention R n n d d dk dk dk e dout) :=
  Attention (core a) (W_Q a) (W_V a) (W_V a) (W_O a).

Theorem posthoc_tying X : let a := in_gauge in
  [/\ forall G J : 'M[R]_p, G \in unitmx -> J \in unitmx -> mha (a G J) X = A ((X *m WQ) *m (X *m WK)^T) *m (X *m WV) *m WO,
      forall G J : 'M[R]_p, G \in unitmx -> J \in unitmx ->
        mha (keep_k (a G J)) X = A ((X *m WQ) *m (X *m WK)^T) *m (X *m WK) *m ((invmx G)^T *m invmx J) *m WO,
      forall G J : 'M[R]_p, G \in unitmx -> J \in unitmx ->
        mha (keep_v (a G J)) X = A ((X *m WQ) *m (G *m J^T) *m (X *m WV)^T) *m (X *m WV) *m WO,
      forall P : 'M[R]_p, P \in unitmx -> exists G J : 'M[R]_p, [/\ G \in unitmx, J \in unitmx & (invmx G)^T *m invmx J = P]
    & forall T : 'M[R]_p, T \in unitmx -> WV = WK *m T ->
        mha (keep_k (a 1%:M (invmx T))) X = A ((X *m WQ) *m (X *m WK)^T) *m (X *m WV) *m WO].
Proof.
have scoresE G : G \in unitmx -> (X *m (WQ *m G)) *m (X *m (WK *m (invmx G)^T))^T = (X *m WQ) *m (X *m WK)^T.
  by move=> G_inv; rewrite !trmx_mul trmxK !mulmxA mulmxK.
move=> a; split=> [G J G_inv J_inv|G J G_inv J_inv|G J G_inv J_inv|P P_inv|T T_inv VE].
- by rewrite /mha /cross /= /single_head scoresE // !mulmxA mulmxK.
- by rewrite /mha /cross /= /single_head scoresE // !mulmxA.
- by rewrite /mha /cross /= /single_head !trmx_mul !mulmxA mulmxK.
- by exists 1%:M, (invmx P); rewrite unitmx1 unitmx_inv invmx1 trmx1 mul1mx invmxK.
by rewrite /mha /cross /= /single_head scoresE ?unitmx1 // invmx1 trmx1 mulmx1 invmxK VE !mulmxA.
Qed.
End Posthoc.
Print Assumptions posthoc_tying.
