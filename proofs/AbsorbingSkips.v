(** * Can an MLP absorb its skip?

    To absorb a matrix [M] beside a block [B] is to compute [X -> X M + B(X)] by a
    block of the same kind.  Some activations never can, some can if the weights
    happen to fit, and with spare units all of these can. *)
From mathcomp Require Import all_ssreflect all_algebra.
From QKV Require Import ThreeProducts Reparametrization Skipless.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import Order.TTheory GRing.Theory Num.Theory.
Local Open Scope ring_scope.

(** ** From a change of basis to absorption

    Blocks of one kind: a hidden layer [hidden p], of whatever parameters [p],
    and an output matrix [W].  [absorbs M p W]: some block of the kind is
    [X -> X M + hidden p X W]. *)
Section Absorb.
Variables (R : comUnitRingType) (n d m : nat) (param : Type) (hidden : param -> 'M[R]_(n, d) -> 'M[R]_(n, m)).

Definition absorbs (M : 'M[R]_d) p (W : 'M_(m, d)) :=
  exists p' (W' : 'M_(m, d)), forall X, X *m M + hidden p X *m W = hidden p' X *m W'.

(** (a) Only the identity matters, if [M] is invertible.  (b) A residual block, in
    the basis [T] before it and [T'] after it: what stands in its place, the
    identity skip kept, absorbs [T^-1 T' - 1]. *)
Theorem absorb_reduction :
  (forall M p (W : 'M_(m, d)), M \in unitmx -> absorbs M p W <-> absorbs 1%:M p (W *m invmx M)) /\
  (forall k l (T T' : 'M_d) (act : 'M[R]_(n, k) -> 'M[R]_(n, l)) up (down : 'M_(l, d)) (new : 'M[R]_(n, d) -> 'M[R]_(n, d)), T \in unitmx ->
     (forall Y, (Y + act (Y *m up) *m down) *m T' = Y *m T + new (Y *m T)) <->
     (forall Z, new Z = Z *m (invmx T *m T' - 1%:M) + act (Z *m (invmx T *m up)) *m (down *m T'))).
Proof.
split=> [M p W M_inv|k l T T' act up down new T_inv].
  split=> [] [p' [W' same]]; exists p'.
    exists (W' *m invmx M) => X; apply: (can_inj (mulmxK M_inv)).
    by rewrite mulmxDl mulmx1 !mulmxA !mulmxKV // same.
  by exists (W' *m M) => X; rewrite mulmxA -same mulmxDl mulmx1 !mulmxA mulmxKV.
split=> [same Z|newE Y].
  have := same (Z *m invmx T); rewrite mulmxKV // mulmxDl => E.
  by rewrite mulmxBr mulmx1 !mulmxA addrAC E addrC addKr.
rewrite newE basis_cancel // mulmxBr mulmx1 [Y *m T *m _]basis_cancel // mulmxDl mulmxA addrA.
by rewrite [X in _ = X + _]addrC subrK.
Qed.
End Absorb.
Print Assumptions absorb_reduction.

(** ** Blocks that are too flat near zero

    [power t] is [t ^ k], for a natural or a real [k] other than 1. *)
Theorem homogeneous_no_absorption (R : numDomainType) n d (M : 'M[R]_d)
    (B B' : 'M[R]_(n.+1, d) -> 'M[R]_(n.+1, d)) (power : R -> R) :
  (forall t X, 0 < t -> B (t *: X) = power t *: B X) -> (forall t X, 0 < t -> B' (t *: X) = power t *: B' X) ->
  (exists2 t, 0 < t & power t != t) ->
  (forall X, X *m M + B X = B' X) -> M = 0.
Proof.
move=> hom hom' [t t_gt0 other] same; apply: (@mulmx_ext _ n) => X; rewrite mulmx0.
have : (t - power t) *: (X *m M) = 0.
  have := same (t *: X); rewrite hom // hom' // -same -scalemxAl scalerDr => /addIr scaled.
  by rewrite scalerBl scaled subrr.
by move/eqP; rewrite scalemx_eq0 subr_eq0 eq_sym (negbTE other) => /eqP.
Qed.
Print Assumptions homogeneous_no_absorption.

(** [norm1]: the sum of the sizes of all entries.  [flat f]: near 0, [f X] is
    small against [X]; so its derivative there is 0. *)
Section Flat.
Variables (R : realFieldType).

Definition norm1 n d (X : 'M[R]_(n, d)) := \sum_i \sum_j `|X i j|.

Lemma norm1_ge0 n d (X : 'M_(n, d)) : 0 <= norm1 X.
Proof. by do 2!(apply: sumr_ge0 => ? _). Qed.

Lemma norm1D n d (X Y : 'M_(n, d)) : norm1 (X + Y) <= norm1 X + norm1 Y.
Proof.
rewrite /norm1 -big_split; apply: ler_sum => i _; rewrite -big_split; apply: ler_sum => j _ /=.
by rewrite mxE ler_norm_add.
Qed.

Lemma norm1N n d (X : 'M_(n, d)) : norm1 (- X) = norm1 X.
Proof. by do 2!(apply: eq_bigr => ? _); rewrite mxE normrN. Qed.

Lemma norm1Z n d t (X : 'M_(n, d)) : norm1 (t *: X) = `|t| * norm1 X.
Proof. by rewrite mulr_sumr; apply: eq_bigr => i _; rewrite mulr_sumr; apply: eq_bigr => j _; rewrite mxE normrM. Qed.

Lemma norm1_entry n d (X : 'M_(n, d)) i j : `|X i j| <= norm1 X.
Proof.
rewrite /norm1 (bigD1 i) //= (bigD1 j) //= -addrA ler_addl addr_ge0 //; first by apply: sumr_ge0.
by do 2!(apply: sumr_ge0 => ? _).
Qed.

Lemma norm1_0 n d : norm1 (0 : 'M_(n, d)) = 0.
Proof. by rewrite /norm1 big1 // => i _; rewrite big1 // => j _; rewrite mxE normr0. Qed.

Lemma norm1_eq0 n d (X : 'M_(n, d)) : norm1 X = 0 -> X = 0.
Proof.
by move=> X0; apply/matrixP=> i j; rewrite mxE; apply/eqP; rewrite -normr_eq0 eq_le normr_ge0 -X0 norm1_entry.
Qed.

Lemma norm1M n d m (X : 'M_(n, d)) (W : 'M_(d, m)) : norm1 (X *m W) <= norm1 X * norm1 W.
Proof.
rewrite /norm1 mulr_suml; apply: ler_sum => i _; rewrite mulr_suml.
apply: (@le_trans _ _ (\sum_j \sum_k `|X i k| * `|W k j|)).
  by apply: ler_sum => j _; rewrite mxE (le_trans (ler_norm_sum _ _ _)) // ler_sum // => k _; rewrite normrM.
rewrite exchange_big; apply: ler_sum => k _; rewrite -mulr_sumr ler_wpmul2l //.
by rewrite [X in _ <= X](bigD1 k) //= ler_addl; do 2!(apply: sumr_ge0 => ? _).
Qed.

Definition flat n d m (f : 'M[R]_(n, d) -> 'M[R]_(n, m)) := forall eps, 0 < eps ->
  exists2 delta, 0 < delta & forall X, norm1 X <= delta -> norm1 (f X) <= eps * norm1 X.

Lemma flatD n d m (f g : 'M_(n, d) -> 'M_(n, m)) : flat f -> flat g -> flat (fun X => f X + g X).
Proof.
move=> f_flat g_flat eps eps_gt0; have half_gt0 : 0 < eps / 2%:R by rewrite divr_gt0 ?ltr0n.
have [a a_gt0 f_le] := f_flat _ half_gt0; have [b b_gt0 g_le] := g_flat _ half_gt0.
exists (Num.min a b) => [|X]; first by rewrite lt_minr a_gt0.
rewrite le_minr => /andP[Xa Xb]; apply: le_trans (norm1D _ _) _.
by rewrite [eps](splitr eps) mulrDl ler_add ?f_le ?g_le.
Qed.

Lemma eq_flat n d m (f g : 'M_(n, d) -> 'M_(n, m)) : (forall X, f X = g X) -> flat f -> flat g.
Proof. by move=> same f_flat eps /f_flat[delta delta_gt0 f_le]; exists delta => // X; rewrite -same; apply: f_le. Qed.

Lemma flatN n d m (f : 'M_(n, d) -> 'M_(n, m)) : flat f -> flat (fun X => - f X).
Proof. by move=> f_flat eps /f_flat[delta delta_gt0 f_le]; exists delta => // X; rewrite norm1N; apply: f_le. Qed.

(** Behind a map that at most multiplies the size. *)
Lemma flat_comp n d m e (f : 'M_(n, d) -> 'M_(n, m)) (g : 'M_(n, m) -> 'M_(n, e)) c delta : 0 < c -> 0 < delta ->
  (forall X, norm1 X <= delta -> norm1 (f X) <= c * norm1 X) -> flat g -> flat (fun X => g (f X)).
Proof.
move=> c_gt0 delta_gt0 f_le g_flat eps eps_gt0.
have [b b_gt0 g_le] := g_flat _ (divr_gt0 eps_gt0 c_gt0).
exists (Num.min delta (b / c)) => [|X]; first by rewrite lt_minr delta_gt0 divr_gt0.
rewrite le_minr ler_pdivl_mulr // => /andP[X_delta X_b].
apply: le_trans (g_le _ _) _; first by rewrite (le_trans (f_le _ X_delta)) // mulrC.
by rewrite -mulrA ler_wpmul2l ?(ltW eps_gt0) // mulrC ler_pdivr_mulr // mulrC f_le.
Qed.

Lemma flat_bounded n d m (f : 'M_(n, d) -> 'M_(n, m)) : flat f ->
  exists2 delta, 0 < delta & forall X, norm1 X <= delta -> norm1 (f X) <= 1 * norm1 X.
Proof. by apply; apply: ltr01. Qed.

Lemma flat_linear n d m (M : 'M_(d, m)) : flat (fun X : 'M[R]_(n.+1, d) => X *m M) -> M = 0.
Proof.
move=> linear; apply: (@mulmx_ext _ n) => X; rewrite mulmx0; apply/norm1_eq0/eqP; apply: contraT => XM_neq0.
have XM_gt0 : 0 < norm1 (X *m M) by rewrite lt_neqAle eq_sym XM_neq0 norm1_ge0.
have X_gt0 : 0 < norm1 X.
  rewrite lt_neqAle norm1_ge0 andbT eq_sym; apply: contraNneq XM_neq0 => /norm1_eq0->.
  by rewrite mul0mx norm1_0.
have eps_gt0 : 0 < norm1 (X *m M) / (2%:R * norm1 X) by rewrite divr_gt0 // mulr_gt0 ?ltr0n.
have [delta delta_gt0 small] := linear _ eps_gt0; pose t := delta / norm1 X.
have tX : t * norm1 X = delta by rewrite divfK ?gt_eqF.
have := small (t *: X); rewrite -scalemxAl !norm1Z gtr0_norm ?divr_gt0 // tX lexx -tX => /(_ isT).
rewrite mulrCA ler_pmul2l ?divr_gt0 // invfM mulrA divfK ?gt_eqF //.
by rewrite ler_pdivl_mulr ?ltr0n // mulr_natr mulr2n ger_addl leNgt XM_gt0.
Qed.

Lemma flat_no_absorption n d m (M : 'M_(d, m)) (B B' : 'M[R]_(n.+1, d) -> 'M_(n.+1, m)) : flat B -> flat B' ->
  (forall X, X *m M + B X = B' X) -> M = 0.
Proof.
move=> B_flat B'_flat same; apply: (@flat_linear n); apply: eq_flat (flatD B'_flat (flatN B_flat)) => X.
by rewrite -same addrK.
Qed.
End Flat.
Print Assumptions flat_linear.

(** Homogeneous of a natural degree of two or more, and bounded where [norm1] is 1. *)
Lemma homogeneous_flat (R : realFieldType) n d m (B : 'M[R]_(n, d) -> 'M_(n, m)) k c :
  (forall t X, 0 < t -> B (t *: X) = t ^+ k.+2 *: B X) -> (forall X, norm1 X = 1 -> norm1 (B X) <= c) -> flat B.
Proof.
move=> hom bounded eps eps_gt0; have pos_gt0 : 0 < Num.max c 1 by rewrite lt_maxr ltr01 orbT.
exists (Num.min 1 (eps / Num.max c 1)) => [|X]; first by rewrite lt_minr ltr01 divr_gt0.
rewrite le_minr ler_pdivl_mulr // => /andP[X_le1 X_le].
have B0 : B 0 = 0.
  have /eqP := hom 2%:R 0 (ltr0n _ 2); rewrite scaler0 -subr_eq0 -{1}[B 0]scale1r -scalerBl scalemx_eq0 subr_eq0.
  by rewrite lt_eqF ?exprn_egt1 ?ltr1n // => /eqP.
have [/norm1_eq0->|X_neq0] := eqVneq (norm1 X) 0; first by rewrite B0 !norm1_0 mulr0.
have X_gt0 : 0 < norm1 X by rewrite lt_neqAle eq_sym X_neq0 norm1_ge0.
have unit : norm1 ((norm1 X)^-1 *: X) = 1 by rewrite norm1Z gtr0_norm ?invr_gt0 // mulVf.
have -> : norm1 (B X) = norm1 X ^+ k.+2 * norm1 (B ((norm1 X)^-1 *: X)).
  by rewrite -{1}[X](scalerKV X_neq0) hom // norm1Z gtr0_norm // exprn_gt0.
have le_max : norm1 (B ((norm1 X)^-1 *: X)) <= Num.max c 1 by rewrite le_maxr bounded.
apply: le_trans (ler_wpmul2l (exprn_ge0 _ (ltW X_gt0)) le_max) _.
rewrite exprSr mulrAC ler_pmul2r //; apply: le_trans X_le; rewrite ler_pmul2r // exprS ler_pimulr ?norm1_ge0 //.
exact: exprn_ile1 (norm1_ge0 _) X_le1.
Qed.

(** ** Gated blocks

    [gate Wg] decides, [Wu] is gated.  Of the activation: continuous at 0, and 0
    there.  A derivative is not needed.  The square of ReLU is ReLU times its own
    argument, so a gated block too. *)
Section Gated.
Variables (R : realFieldType) (n d m : nat).

Definition gated (sigma : R -> R) (Wg Wu : 'M_(d, m)) (Wd : 'M_(m, d)) (X : 'M_(n.+1, d)) :=
  (\matrix_(i, j) (sigma ((X *m Wg) i j) * (X *m Wu) i j)) *m Wd.

Definition vanishes (sigma : R -> R) := forall eps, 0 < eps ->
  exists2 delta, 0 < delta & forall z, `|z| <= delta -> `|sigma z| <= eps.

Lemma gated_flat sigma Wg Wu Wd : vanishes sigma -> flat (gated sigma Wg Wu Wd).
Proof.
move=> small eps eps_gt0; have c_gt0 (W : R) : 0 <= W -> 0 < W + 1 by move=> W_ge0; rewrite ltr_paddl ?ltr01.
have UD_ge0 : 0 <= norm1 Wu * norm1 Wd by rewrite mulr_ge0 ?norm1_ge0.
have [delta delta_gt0 sigma_le] := small _ (divr_gt0 eps_gt0 (c_gt0 _ UD_ge0)).
exists (delta / (norm1 Wg + 1)) => [|X]; first by rewrite divr_gt0 ?c_gt0 ?norm1_ge0.
rewrite ler_pdivl_mulr ?c_gt0 ?norm1_ge0 // => X_le; apply: le_trans (norm1M _ _) _.
have gate_le i j : `|(X *m Wg) i j| <= delta.
  apply: le_trans (norm1_entry _ _ _) (le_trans (norm1M _ _) (le_trans _ X_le)).
  by rewrite mulrDr mulr1 ler_addl norm1_ge0.
apply: (@le_trans _ _ (eps / (norm1 Wu * norm1 Wd + 1) * norm1 (X *m Wu) * norm1 Wd)).
  rewrite ler_wpmul2r ?norm1_ge0 // mulr_sumr; apply: ler_sum => i _; rewrite mulr_sumr; apply: ler_sum => j _.
  by rewrite mxE normrM ler_wpmul2r // sigma_le.
have scale_ge0 : 0 <= eps / (norm1 Wu * norm1 Wd + 1) by rewrite divr_ge0 ?(ltW eps_gt0) // ltW ?c_gt0.
apply: (@le_trans _ _ (eps / (norm1 Wu * norm1 Wd + 1) * (norm1 X * norm1 Wu) * norm1 Wd)).
  by rewrite ler_wpmul2r ?norm1_ge0 // ler_wpmul2l // norm1M.
rewrite [X in X <= _](_ : _ = eps * norm1 X * (norm1 Wu * norm1 Wd) / (norm1 Wu * norm1 Wd + 1)).
  by rewrite ler_pdivr_mulr ?c_gt0 // ler_wpmul2l ?mulr_ge0 ?norm1_ge0 ?(ltW eps_gt0) // ler_addl.
by rewrite -!mulrA; congr (_ * _); rewrite mulrC -!mulrA.
Qed.

Theorem gated_no_absorption sigma (M : 'M_d) Wg Wu Wd Wg' Wu' Wd' : vanishes sigma ->
  (forall X, X *m M + gated sigma Wg Wu Wd X = gated sigma Wg' Wu' Wd' X) -> M = 0.
Proof.
move=> small; exact: flat_no_absorption (gated_flat Wg Wu Wd small) (gated_flat Wg' Wu' Wd' small).
Qed.
End Gated.
Print Assumptions homogeneous_flat.
Print Assumptions gated_no_absorption.

(** ** Any depth

    Near 0 a stack of residual blocks is the identity and a rest that is flat; a
    stack of blocks without skips is flat itself. *)
Section Deep.
Variables (R : realFieldType) (n d : nat).
Implicit Types (blocks : seq ('M[R]_(n.+1, d.+1) -> 'M[R]_(n.+1, d.+1))).

Definition residual blocks X := foldl (fun Y B => Y + B Y) X blocks.
Definition skipless blocks X := foldl (fun Y B => B Y) X blocks.

Lemma skipless_flat B blocks : flat B -> each (@flat R _ _ _) blocks -> flat (skipless (B :: blocks)).
Proof.
elim: blocks B => [|C blocks IH] B //= B_flat [C_flat flats].
have [delta delta_gt0 bounded] := flat_bounded B_flat.
exact: flat_comp ltr01 delta_gt0 bounded (IH _ C_flat flats).
Qed.

Lemma residual_flat blocks : each (@flat R _ _ _) blocks -> flat (fun X => residual blocks X - X).
Proof.
elim: blocks => [_|B blocks IH /= [B_flat flats]].
  by move=> eps eps_gt0; exists 1 => // X _; rewrite /= subrr norm1_0 mulr_ge0 ?norm1_ge0 // ltW.
have [delta delta_gt0 bounded] := flat_bounded B_flat.
have two X : norm1 X <= delta -> norm1 (X + B X) <= 2%:R * norm1 X.
  by move=> X_le; rewrite mulr_natl mulr2n (le_trans (norm1D _ _)) // ler_add // -[X in _ <= X]mul1r bounded.
apply: eq_flat (flatD (flat_comp (ltr0n _ 2) delta_gt0 two (IH flats)) B_flat) => X /=.
by rewrite opprD addrA subrK.
Qed.

Theorem deep_no_absorption blocks B blocks' :
  each (@flat R _ _ _) blocks -> each (@flat R _ _ _) (B :: blocks') ->
  ~ forall X, residual blocks X = skipless (B :: blocks') X.
Proof.
move=> flats [B_flat flats'] same.
have : (1%:M : 'M[R]_d.+1) = 0.
  apply: (flat_no_absorption (residual_flat flats) (skipless_flat B_flat flats')) => X.
  by rewrite mulmx1 addrC subrK.
by move/matrixP/(_ 0 0)/eqP; rewrite !mxE oner_eq0.
Qed.
End Deep.
Print Assumptions deep_no_absorption.

(** ** Flipping hidden units

    [phi z - phi (-z) = c z]: ReLU, GELU, SiLU and softplus with [c = 1], leaky ReLU
    with [1 + a].  [on S] keeps the units in [S]; [signs S] turns them around. *)
Definition layer (R : ringType) n d m k (phi : R -> R) (U : 'M[R]_(d, m)) (b : 'rV_m) (W : 'M_(m, k)) (e : 'rV_k)
    (X : 'M_(n, d)) := map_mx phi (X *m U + ones *m b) *m W + ones *m e.

Definition on (R : ringType) m (S : pred 'I_m) : 'M[R]_m := diag_mx (\row_j (S j)%:R).
Definition signs (R : ringType) m (S : pred 'I_m) : 'M[R]_m := diag_mx (\row_j (-1) ^+ S j).

(** All units. *)
Lemma on_all (R : ringType) m : on R (fun=> true) = 1%:M :> 'M_m.
Proof. by apply/matrixP=> i j; rewrite !mxE. Qed.

Lemma signs_all (R : ringType) m : signs R (fun=> true) = - 1%:M :> 'M_m.
Proof. by apply/matrixP=> i j; rewrite !mxE expr1 mulNrn. Qed.

Lemma flip_hidden (R : comRingType) n m (phi : R -> R) c (S : pred 'I_m) (H : 'M_(n, m)) :
  (forall z, phi z - phi (- z) = c * z) -> map_mx phi (H *m signs R S) = map_mx phi H - c *: (H *m on R S).
Proof.
move=> split_phi; apply/matrixP=> i j; rewrite !mul_mx_diag !mxE; case: (S j); rewrite ?mulr0 ?subr0 ?expr0 ?mulr1 //.
by rewrite expr1 mulrN1 -split_phi opprB addrC subrK.
Qed.

Theorem sign_flip_identity (R : comRingType) n d m k (phi : R -> R) c (S : pred 'I_m) U b (W : 'M_(m, k)) e :
  (forall z, phi z - phi (- z) = c * z) ->
  let flipped := layer phi (U *m signs R S) (b *m signs R S) W in
  (forall X : 'M_(n, d), flipped e X = layer phi U b W e X - c *: (X *m (U *m on R S *m W) + ones *m (b *m on R S *m W))) /\
  (forall M, c *: (U *m on R S *m W) = - M ->
   forall X : 'M_(n, d), X *m M + layer phi U b W e X = flipped (e + c *: (b *m on R S *m W)) X).
Proof.
move=> split_phi flipped.
have flip X : flipped e X = layer phi U b W e X - c *: (X *m (U *m on R S *m W) + ones *m (b *m on R S *m W)).
  rewrite /flipped /layer !mulmxA -!mulmxDl (flip_hidden _ _ split_phi) addrAC; congr (_ + _).
  by rewrite mulmxBl -scalemxAl.
split=> // M cancels X.
have -> : flipped (e + c *: (b *m on R S *m W)) X = flipped e X + ones *m (c *: (b *m on R S *m W)).
  by rewrite /flipped /layer mulmxDr addrA.
by rewrite flip scalerDr opprD [c *: (X *m _)]scalemxAr cancels mulmxN opprK [c *: (ones *m _)]scalemxAr -addrA subrK addrC.
Qed.
Print Assumptions sign_flip_identity.

(** ** Spare units

    [2 r] more units, for [M] of rank [r], whatever the old activation [act] is.
    [half]: the inverse of [c]. *)
Section Spare.
Variables (R : comRingType) (phi : R -> R) (c half : R).
Hypothesis phi_split : forall z, phi z - phi (- z) = c * z.
Hypothesis halfK : half * c = 1.

Definition both n m m' k (act : 'M[R]_(n, m) -> 'M[R]_(n, m')) (H : 'M[R]_(n, m + k)) : 'M[R]_(n, m' + k) :=
  row_mx (act (lsubmx H)) (map_mx phi (rsubmx H)).
Definition spare_reads d m r (up : 'M[R]_(d, m)) (A : 'M_(d, r)) := row_mx up (row_mx A (- A)).
Definition spare_writes d m r (down : 'M[R]_(m, d)) (B : 'M_(r, d)) := col_mx down (half *: col_mx B (- B)).

Lemma phi_sub n k (H : 'M[R]_(n, k)) : map_mx phi H - map_mx phi (- H) = c *: H.
Proof. by apply/matrixP=> i j; rewrite !mxE phi_split. Qed.

(** The spare units have no biases, and the old ones keep theirs. *)
Theorem spare_units n d m m' r (act : 'M_(n, m) -> 'M_(n, m')) up down (bU : 'rV_m) (bD : 'rV_d)
    (A : 'M_(d, r)) (B : 'M_(r, d)) (X : 'M_(n, d)) :
  both act (X *m spare_reads up A + ones *m row_mx bU 0) *m spare_writes down B + ones *m bD
  = X *m (A *m B) + (act (X *m up + ones *m bU) *m down + ones *m bD).
Proof.
rewrite /spare_reads /spare_writes !mul_mx_row mulmx0 add_row_mx addr0 /both row_mxKl row_mxKr.
rewrite mul_row_col map_row_mx -scalemxAr mul_row_col !mulmxN -mulmxBl phi_sub -scalemxAl scalerA halfK scale1r.
by rewrite mulmxA addrA; congr (_ + _); rewrite addrC.
Qed.
End Spare.
Print Assumptions spare_units.

(** *** Every skip is there, and every [WQ] becomes the identity

    Each layer is left in the basis in which the next one is entered; its spare
    units repair what the identity skip around its MLP does not do. *)
Section SpareNetwork.
Variables (R : comUnitRingType) (n d : nat) (phi : R -> R) (c : R).
Hypothesis phi_split : forall z, phi z - phi (- z) = c * z.
Hypothesis c_inv : c \is a GRing.unit.
Implicit Types (s : stage R n d) (M leave : 'M[R]_d).

Definition widened M s := let b := inner s in
  Stage (Block (attn b) (both phi (act b)) (spare_reads (W_up b) 1%:M) (spare_writes c^-1 (W_down b) M)
               (attention_skip b) (mlp_skip b))
        (bias_Q s) (bias_K s) (bias_V s) (bias_O s) (row_mx (bias_up s) (0 : 'rV_(d + d))) (bias_down s)
        (attention_norm s) (mlp_norm s) (parallel s).

Lemma transform_widened M s X : transform (widened M s) X = mlp_norm s X *m M + transform s X.
Proof. by rewrite /transform /= (spare_units phi_split (mulVr c_inv)) mul1mx. Qed.

Definition repaired leave s := let T := query s in
  widened (invmx T *m leave - 1%:M) (rebase_stage s T T leave).

Definition entered (ls : seq (stage R n d)) : 'M[R]_d := if ls is s :: _ then query s else 1%:M.

Fixpoint repair ls := if ls is s :: rest then repaired (entered rest) s :: repair rest else [::].

Definition spare_stack v w (N : stack R n d v w) := let T := entered (stages N) in
  Stack (embed N *m T) (shift N *m T) (repair (stages N)) (decode N).

Definition every_skip s := [&& ~~ parallel s, attention_skip (inner s) & mlp_skip (inner s)].

Lemma repaired_run leave s X : every_skip s -> no_norm s -> query s \in unitmx ->
  run_stage (repaired leave s) (X *m query s) = run_stage s X *m leave.
Proof.
case/and3P=> /negbTE serial skip1 skip2 unnormed T_inv; have [comm1 comm2] := no_norm_commutes (query s) unnormed.
have attended := attend_rebased (query s) leave X T_inv comm1.
have transformed := @transform_rebased _ _ _ s (query s) (query s) leave.
have no_mlp_norm Z : mlp_norm s Z = Z by case: (unnormed Z).
move: attended transformed; rewrite serial => attended transformed.
have -> : run_stage s X *m leave = (X + attend s X) *m leave + transform s (X + attend s X) *m leave.
  by rewrite /run_stage serial skip1 skip2; exact: mulmxDl.
rewrite -transformed // /run_stage /= serial skip1 skip2 transform_widened.
have -> : attend (repaired leave s) (X *m query s) = attend s X *m query s by exact: attended.
rewrite -mulmxDl; move: (X + _) => Y; set Z := transform _ _.
rewrite [mlp_norm _ _]/= no_mlp_norm mulmxBr mulmx1 mulmxA mulmxK // addrA addrC.
by rewrite [X in _ + X]addrC subrK addrC.
Qed.

Theorem spare_units_network v w (N : stack R n d v w) :
  all every_skip (stages N) ->
  each (@no_norm R n d) (stages N) ->
  all (fun s => query s \in unitmx) (stages N) ->
  [/\ all (fun s => query s == 1%:M) (stages (spare_stack N)),
      all every_skip (stages (spare_stack N)),
      [seq size_up s | s <- stages (spare_stack N)] = [seq (size_up s + (d + d))%N | s <- stages N]
    & forall tokens, run_stack (spare_stack N) tokens = run_stack N tokens].
Proof.
case: N => E P ls U /= skips unnormed inv; split=> [|||tokens]; last first.
- rewrite /run_stack /= mulmxA -mulmxDl; congr (_ *m U); move: (_ + _) => X.
  elim: ls X skips unnormed inv => [|s ls IH] X /=; first by rewrite mulmx1.
  by case/andP=> skip skips [un uns] /andP[s_inv ls_inv]; rewrite repaired_run // IH.
- by elim: (ls) => //= s l ->; congr (_ :: _); rewrite /rebase_stage; case: (parallel s).
- elim: (ls) skips => //= s l IH /andP[s_skip /IH ->]; rewrite andbT.
  by move: s_skip; rewrite /every_skip /=; case: (parallel s).
elim: (ls) inv => //= s l IH /andP[s_inv /IH ->]; rewrite andbT.
have := projection_becomes_one (query s) (entered l) (s_inv : projection Query s \in unitmx).
by rewrite /query /repaired /widened /projection /= => ->.
Qed.
End SpareNetwork.
Print Assumptions spare_units_network.

(** ** As many spare units as the stream is wide

    [place]: which unit a chosen number stands for.  The spare units read what the
    chosen units read, turned around. *)
Section Sharp.
Variables (R : comUnitRingType) (n d m : nat) (phi : R -> R) (c : R) (place : 'I_d -> 'I_m).
Hypothesis phi_split : forall z, phi z - phi (- z) = c * z.
Hypothesis c_inv : c \is a GRing.unit.
Implicit Types (U : 'M[R]_(d, m)) (W : 'M[R]_(m, d)).

Definition picked : 'M[R]_(m, d) := \matrix_(i, k) (i == place k)%:R.

Lemma pickedE l (A : 'M_(l, m)) i k : (A *m picked) i k = A i (place k).
Proof.
rewrite mxE (bigD1 (place k)) //= mxE eqxx mulr1 big1 ?addr0 // => j /negbTE other.
by rewrite mxE other mulr0.
Qed.

Definition sharp U (M : 'M_d) := c^-1 *: (invmx (U *m picked) *m M).

Theorem spare_units_sharp U (b : 'rV_m) W (e : 'rV_d) M (X : 'M_(n, d)) : U *m picked \in unitmx ->
  let s := sharp U M in
  layer phi (row_mx U (- (U *m picked))) (row_mx b (- (b *m picked))) (col_mx (W + picked *m s) (- s))
        (e - c *: (b *m picked *m s)) X
  = X *m M + layer phi U b W e X.
Proof.
move=> U_inv s; rewrite /layer !mul_mx_row add_row_mx map_row_mx mul_row_col; set H := X *m U + ones *m b.
rewrite [_ *m (W + _)]mulmxDr [ones *m (e - _)]mulmxDr.
have -> : X *m - (U *m picked) + ones *m - (b *m picked) = - (H *m picked).
  by rewrite !mulmxN -opprD mulmxDl !mulmxA.
have -> : map_mx phi H *m (picked *m s) = map_mx phi (H *m picked) *m s.
  by rewrite mulmxA; congr (_ *m s); apply/matrixP=> i k; rewrite pickedE [RHS]mxE pickedE mxE.
have linear : map_mx phi (H *m picked) *m s - map_mx phi (- (H *m picked)) *m s = X *m M + ones *m (c *: (b *m picked *m s)).
  rewrite -mulmxBl (phi_sub phi_split) -scalemxAl mulmxDl mulmxDl scalerDr -!(mulmxA X) -!(mulmxA ones).
  by rewrite -scalemxAr /s /sharp -scalemxAr scalerA mulrV // scale1r mulKVmx // scalemxAr.
by rewrite !mulmxN -[X in X + _ = _]addrA linear addrACA addrK addrC.
Qed.
End Sharp.
Print Assumptions spare_units_sharp.

(** As many units as the stream is wide: all of them are chosen. *)
Lemma picked_all (R : comUnitRingType) d : picked R (fun i : 'I_d => i) = 1%:M.
Proof. by apply/matrixP=> i k; rewrite !mxE. Qed.

(** ** The smallest case *)
Section ReLU.
Variable R : realDomainType.
Implicit Types (a b x y : R).
Definition relu x := Num.max 0 x.

Lemma relu_pos x : 0 <= x -> relu x = x. Proof. exact: max_r. Qed.
Lemma relu_neg x : x <= 0 -> relu x = 0. Proof. exact: max_l. Qed.

Lemma relu_split x : relu x - relu (- x) = 1 * x.
Proof.
rewrite mul1r; case: (lerP 0 x) => [x_ge0|/ltW x_le0]; first by rewrite relu_pos // relu_neg ?subr0 // oppr_le0.
by rewrite relu_neg // relu_pos ?oppr_ge0 // sub0r opprK.
Qed.

(** One token, one unit, weights 1; the bases 1 before and 2 after the MLP.  Two
    more units do it. *)
Theorem small_relu_counterexample :
  (~ exists a b, forall y, 2%:R * (y + relu y) = y + b * relu (a * y)) /\
  forall y, 2%:R * (y + relu y) = y + 3%:R * relu y - relu (- y).
Proof.
split=> [[a [b same]]|y]; last first.
  have -> : relu (- y) = relu y - y by rewrite -[X in _ = _ - X]mul1r -relu_split subKr.
  by rewrite opprB mulrDr !mulr_natl [RHS]addrACA (mulrSr _ 2) addrK -mulr2n.
have [at1 atN1] := (same 1, same (-1)); move: at1 atN1.
rewrite mulrN1 mulr1 (relu_pos ler01) (relu_neg (lerN10 _)) addr0.
case: (lerP 0 a) => [a_ge0 _|/ltW a_le0 + _].
  rewrite relu_neg ?oppr_le0 // mulr0 addr0 mulrN1 => /oppr_inj/eqP.
  by rewrite (eqr_nat R 2 1).
rewrite relu_neg // mulr0 addr0 -(natrD _ 1 1) -natrM => /eqP.
by rewrite (eqr_nat R 4 1).
Qed.
End ReLU.
Print Assumptions small_relu_counterexample.

(** Two kinds of degree two. *)
Lemma powers_differ (R : numDomainType) k : k != 1%N -> exists2 t : R, 0 < t & t ^+ k != t.
Proof.
by move=> k_neq1; exists 2%:R; rewrite ?ltr0n // -natrX eqr_nat -[X in (_ == X)%N](expn1 2) eqn_exp2l.
Qed.

Lemma relu_scaled (R : realDomainType) (t z : R) : 0 < t -> relu (t * z) = t * relu z.
Proof. by move=> t_gt0; rewrite /relu maxr_pmulr ?mulr0 // ltW. Qed.

Lemma relu_square_degree (R : realDomainType) n d m e (U : 'M[R]_(d, m)) (W : 'M_(m, e)) t (X : 'M_(n, d)) : 0 < t ->
  let B X := map_mx (fun z => relu z ^+ 2) (X *m U) *m W in B (t *: X) = t ^+ 2 *: B X.
Proof.
move=> t_gt0 B; rewrite /B -scalemxAl [RHS]scalemxAl; congr (_ *m W); apply/matrixP=> i j.
by rewrite !mxE relu_scaled // exprMn.
Qed.

Lemma reglu_degree (R : realFieldType) n d m (Wg Wu : 'M[R]_(d, m)) (Wd : 'M_(m, d)) t (X : 'M_(n.+1, d)) : 0 < t ->
  gated (@relu R) Wg Wu Wd (t *: X) = t ^+ 2 *: gated (@relu R) Wg Wu Wd X.
Proof.
move=> t_gt0; rewrite /gated [RHS]scalemxAl; congr (_ *m Wd); apply/matrixP=> i j.
by rewrite -!scalemxAl !mxE relu_scaled // expr2 mulrACA.
Qed.
Print Assumptions relu_square_degree.
Print Assumptions reglu_degree.

(** ** ReLU: exactly when

    [at_row x u] is the input of a unit that reads [u].  Where it changes its sign,
    and only there, the unit has a kink; so kinks on different hyperplanes cannot
    cancel. *)
Section Kinks.
Variables (F : realFieldType) (d e : nat).
Implicit Types (x y u v : 'rV[F]_d).

Definition at_row x u := (x *m u^T) 0 0.

Lemma at_rowDl x y u : at_row (x + y) u = at_row x u + at_row y u.
Proof. by rewrite /at_row mulmxDl mxE. Qed.

Lemma at_rowZl a x u : at_row (a *: x) u = a * at_row x u.
Proof. by rewrite /at_row -scalemxAl mxE. Qed.

Lemma at_rowZr a x u : at_row x (a *: u) = a * at_row x u.
Proof. by rewrite /at_row linearZ /= -scalemxAr mxE. Qed.

Lemma at_row0 x : at_row x 0 = 0.
Proof. by rewrite /at_row trmx0 mulmx0 mxE. Qed.

Lemma at_row_self u : u != 0 -> at_row u u != 0.
Proof.
apply: contraNneq => /eqP; rewrite /at_row mxE psumr_eq0 => [/allP zero|k _]; last by rewrite mxE -expr2 sqr_ge0.
by apply/eqP/rowP=> k; have := zero k (mem_index_enum _); rewrite !mxE mulf_eq0 orbb => /eqP.
Qed.

(** A polynomial that is not 0 is not 0 somewhere. *)
Lemma nonroot (p : {poly F}) : p != 0 -> exists t, ~~ root p t.
Proof.
move=> p_neq0; pose points := [seq i%:R : F | i <- iota 0 (seq.size p)].
have [/allP all_roots|/allPn[t _ t_free]] := boolP (all (root p) points); last by exists t.
have uniq_points : uniq points by rewrite map_inj_uniq ?iota_uniq // => i j /eqP; rewrite eqr_nat => /eqP.
by have := max_poly_roots p_neq0 (introT allP all_roots) uniq_points; rewrite size_map size_iota ltnn.
Qed.

(** A point on the hyperplane of [u], and on no other. *)
Lemma point_on_one (I : finType) u (v : I -> 'rV[F]_d) : (forall k, (v k <= u)%MS -> v k = 0) ->
  exists2 x, at_row x u = 0 & forall k, v k != 0 -> at_row x (v k) != 0.
Proof.
move=> apart; pose C := cokermx u.
have off k : v k != 0 -> v k *m C != 0.
  by apply: contraNneq => vC; apply/eqP/apart; rewrite submxE vC.
pose p := \prod_(k | v k != 0) rVpoly (v k *m C).
have p_neq0 : p != 0.
  apply/prodf_neq0=> k /off.
  by apply: contraNneq => vC; rewrite -[_ *m C]rVpolyK vC linear0.
have [t t_free] := nonroot p_neq0; pose x := (\row_k t ^+ k) *m C^T.
have at_x v' : at_row x v' = (rVpoly (v' *m C)).[t].
  rewrite /at_row /x -mulmxA -trmx_mul mxE horner_poly; apply: eq_bigr => k _.
  by rewrite valK mulrC !mxE.
exists x => [|k v_neq0]; first by rewrite at_x mulmx_coker linear0 horner0.
rewrite at_x; apply: contraNneq t_free => zero; rewrite /root horner_prod (bigD1 k) //= zero mul0r.
exact: eqxx.
Qed.

Lemma both_sides (a c : F) : `|c| <= `|a| -> `|a + c| + `|a - c| = `|a| + `|a|.
Proof.
case: (lerP 0 a) => [a_ge0|/ltW a_le0].
  rewrite (ger0_norm a_ge0) ler_norml => /andP[c_ge c_le].
  have plus_ge0 : 0 <= a + c by rewrite addrC -ler_subl_addr sub0r.
  by rewrite (ger0_norm plus_ge0) ger0_norm ?subr_ge0 // addrACA subrr addr0.
rewrite (ler0_norm a_le0) ler_norml opprK => /andP[c_ge c_le].
have plus_le0 : a + c <= 0 by rewrite addrC -ler_subr_addr sub0r.
by rewrite (ler0_norm plus_le0) ler0_norm ?subr_le0 // -opprD addrACA subrr addr0 opprD.
Qed.

Lemma kink (I : finType) u (v : I -> 'rV[F]_d) (w : 'rV[F]_e) (z : I -> 'rV[F]_e) : u != 0 ->
  (forall k, (v k <= u)%MS -> v k = 0) ->
  (forall x, `|at_row x u| *: w + \sum_k `|at_row x (v k)| *: z k = 0) -> w = 0.
Proof.
move=> u_neq0 apart zero; have [x xu xv] := point_on_one apart.
pose N := \sum_k `|at_row u (v k)| / `|at_row x (v k)|.
have N_ge0 : 0 <= N by apply: sumr_ge0 => j _; rewrite divr_ge0.
have near k : `|at_row u (v k)| <= `|at_row (N *: x) (v k)|.
  have [->|v_neq0] := eqVneq (v k) 0; first by rewrite !at_row0.
  have xk_gt0 : 0 < `|at_row x (v k)| by rewrite normr_gt0 xv.
  rewrite at_rowZl normrM (ger0_norm N_ge0) -ler_pdivr_mulr //.
  by rewrite /N (bigD1 k) //= ler_addl sumr_ge0 // => j _; rewrite divr_ge0.
have minus x' y v' : at_row (x' - y) v' = at_row x' v' - at_row y v' by rewrite -scaleN1r at_rowDl at_rowZl mulN1r.
have plain : \sum_k `|at_row (N *: x) (v k)| *: z k = 0.
  by have := zero (N *: x); rewrite at_rowZl xu mulr0 normr0 scale0r add0r.
have both_zero : \sum_k `|at_row (N *: x + u) (v k)| *: z k + \sum_k `|at_row (N *: x - u) (v k)| *: z k = 0.
  transitivity (\sum_k `|at_row (N *: x) (v k)| *: z k + \sum_k `|at_row (N *: x) (v k)| *: z k).
    by rewrite -!big_split; apply: eq_bigr => k _ /=; rewrite -!scalerDl minus at_rowDl both_sides.
  by rewrite plain addr0.
have := congr2 +%R (zero (N *: x + u)) (zero (N *: x - u)); rewrite minus at_rowDl at_rowZl xu mulr0 add0r sub0r normrN.
rewrite addrACA both_zero !addr0 -scalerDl => /eqP; rewrite scalemx_eq0 -mulr2n mulrn_eq0 normr_eq0.
by rewrite (negbTE (at_row_self u_neq0)) => /eqP.
Qed.
End Kinks.
Print Assumptions kink.

Section ReLUUnits.
Variables (F : realFieldType) (d m e : nat).
Implicit Types (U : 'M[F]_(d, m)) (W : 'M[F]_(m, e)) (M : 'M[F]_(d, e)).

Definition unit_of U i : 'rV_d := row i U^T.
Definition relu_absorbs M U W := exists U' W', forall x : 'rV_d,
  x *m M + map_mx (@relu F) (x *m U) *m W = map_mx (@relu F) (x *m U') *m W'.

(** H3: no unit is 0, and no two read the same direction or opposite ones. *)
Definition general_position U W :=
  [/\ forall i, unit_of U i != 0, forall i k, (unit_of U i <= unit_of U k)%MS -> i = k & forall i, row i W != 0].

Lemma layer_sum (f : F -> F) U W x : map_mx f (x *m U) *m W = \sum_i f (at_row x (unit_of U i)) *: row i W.
Proof.
rewrite mulmx_sum_row; apply: eq_bigr => i _; rewrite mxE; congr (f _ *: _).
by rewrite /at_row !mxE; apply: eq_bigr => k _; rewrite !mxE.
Qed.

Lemma read_sum U W x : x *m U *m W = \sum_i at_row x (unit_of U i) *: row i W.
Proof. by rewrite -(layer_sum id) map_mx_id. Qed.

Lemma relu_even (z : F) : relu z + relu (- z) = `|z|.
Proof.
case: (lerP 0 z) => [z_ge0|/ltW z_le0]; first by rewrite relu_pos // relu_neg ?oppr_le0 // addr0 ger0_norm.
by rewrite relu_neg // relu_pos ?oppr_ge0 // add0r ler0_norm.
Qed.

Lemma at_rowN x (u : 'rV[F]_d) : at_row (- x) u = - at_row x u.
Proof. by rewrite -scaleN1r at_rowZl mulN1r. Qed.

End ReLUUnits.

Section ReLUIff.
Variables (F : realFieldType) (d m e : nat).
Implicit Types (U : 'M[F]_(d, m)) (W : 'M[F]_(m, e)) (M : 'M[F]_(d, e)).

(** The even part and the odd part of what is absorbed. *)
Lemma relu_parts m' M U W (U' : 'M_(d, m')) (W' : 'M_(m', e)) :
  (forall x : 'rV_d, x *m M + map_mx (@relu F) (x *m U) *m W = map_mx (@relu F) (x *m U') *m W') ->
  forall x : 'rV_d, \sum_i `|at_row x (unit_of U i)| *: row i W = \sum_j `|at_row x (unit_of U' j)| *: row j W' /\
    (x *m M) *+ 2 + x *m U *m W = x *m U' *m W'.
Proof.
move=> same x; have := same (- x); have := same x; rewrite !layer_sum => at_x at_Nx; split.
  have even l (V : 'M_(d, l)) (Y : 'M_(l, e)) : \sum_i `|at_row x (unit_of V i)| *: row i Y
      = \sum_i relu (at_row x (unit_of V i)) *: row i Y + \sum_i relu (at_row (- x) (unit_of V i)) *: row i Y.
    by rewrite -big_split; apply: eq_bigr => i _ /=; rewrite at_rowN -scalerDl relu_even.
  by rewrite !even -at_x -at_Nx mulNmx addrACA subrr add0r.
have odd l (V : 'M_(d, l)) (Y : 'M_(l, e)) : x *m V *m Y
    = \sum_i relu (at_row x (unit_of V i)) *: row i Y - \sum_i relu (at_row (- x) (unit_of V i)) *: row i Y.
  rewrite read_sum -sumrB; apply: eq_bigr => i _.
  by rewrite at_rowN -scalerBl relu_split mul1r.
by rewrite !odd -at_x -at_Nx mulNmx opprD opprK [RHS]addrACA mulr2n.
Qed.

(** A wider block: however it does it, the extra units make up for what flipping
    some set [S] leaves over. *)
Lemma units_needed M U W (m' : nat) (U' : 'M_(d, m')) (W' : 'M_(m', e)) : general_position U W ->
  (forall x : 'rV_d, x *m M + map_mx (@relu F) (x *m U) *m W = map_mx (@relu F) (x *m U') *m W') ->
  exists S : pred 'I_m, (\rank (U *m on F S *m W + M)%R <= m' - m)%N.
Proof.
case=> U_neq0 U_apart W_neq0 same; have parts := relu_parts same; clear same.
have apart k i : (if k == i then 0 else unit_of U k) = 0 \/ ~~ ((if k == i then 0 else unit_of U k) <= unit_of U i)%MS.
  by case: eqVneq => [|ki]; [left | right; apply: contra ki => /U_apart->].
have found i : exists jc : 'I_m' * F, unit_of U' jc.1 = jc.2 *: unit_of U i /\ jc.2 != 0.
  have [|none] := boolP [exists j, (unit_of U' j != 0) && (unit_of U' j <= unit_of U i)%MS].
    case/existsP=> j /andP[j_neq0 /sub_rVP[c jE]]; exists (j, c); split=> //=.
    by apply: contraNneq j_neq0 => c0; rewrite jE c0 scale0r.
  pose v (k : 'I_m + 'I_m') := match k with inl k => if k == i then 0 else unit_of U k | inr j => unit_of U' j end.
  pose z (k : 'I_m + 'I_m') := match k with inl k => row k W | inr j => - row j W' end.
  case/negP: (W_neq0 i); apply/eqP/(@kink F d e _ (unit_of U i) v (row i W) z) => // [[k|j]|x] /=.
  - by case: (apart k i) => [->|/negP].
  - by move=> j_le; apply/eqP; apply: contraNT none => j_neq0; apply/existsP; exists j; rewrite j_neq0.
  rewrite big_sumType /= addrA -[X in X + _ = 0](_ : \sum_k `|at_row x (unit_of U k)| *: row k W = _); last first.
    rewrite (bigD1 i) //=; congr (_ + _); rewrite [RHS](bigD1 i) //= eqxx at_row0 normr0 scale0r add0r.
    by apply: eq_bigr => k /negbTE->.
  by rewrite (proj1 (parts x)) -big_split big1 //= => j _; rewrite scalerN subrr.
have [jc jcP] := fin_all_exists found; pose s i := (jc i).1; pose c i := (jc i).2.
have uE i : unit_of U' (s i) = c i *: unit_of U i by case: (jcP i).
have c_neq0 i : c i != 0 by case: (jcP i).
have s_inj : injective s.
  move=> i k sik; apply: U_apart; apply/sub_rVP; exists ((c i)^-1 * c k).
  by rewrite -scalerA -uE -sik uE scalerA mulVf ?scale1r.
pose extra := [pred j | j \notin codom s].
have split_sum (V : zmodType) (f : 'I_m' -> V) : \sum_j f j = \sum_i f (s i) + \sum_(j | extra j) f j.
  rewrite (bigID (mem (codom s))) /=; congr (_ + _).
  have uniq_s : uniq (codom s) by rewrite codomE map_inj_uniq ?enum_uniq.
  by rewrite -(big_uniq _ uniq_s) codomE big_map big_enum.
pose alone i := [forall j, extra j ==> (unit_of U' j != 0) ==> ~~ (unit_of U' j <= unit_of U i)%MS].
have wE i : alone i -> row i W = `|c i| *: row (s i) W'.
  move/forallP=> aloneP; apply/eqP; rewrite -subr_eq0; apply/eqP.
  pose v (k : 'I_m + 'I_m') := match k with inl k => if k == i then 0 else unit_of U k
    | inr j => if extra j then unit_of U' j else 0 end.
  pose z (k : 'I_m + 'I_m') := match k with inl k => row k W - `|c k| *: row (s k) W' | inr j => - row j W' end.
  apply: (@kink F d e _ (unit_of U i) v _ z) => // [[k|j]|x] /=.
  - by case: (apart k i) => [->|/negP].
  - case: ifP => // j_extra j_le; move/implyP: (aloneP j) => /(_ j_extra).
    by rewrite j_le implybF negbK => /eqP.
  have [even _] := parts x; move: even; rewrite split_sum => /eqP.
  rewrite -subr_eq0 opprD addrA -sumrB (bigD1 i) //= => /eqP even; rewrite big_sumType /= -[RHS]even addrA; congr (_ + _ + _).
  - by rewrite uE at_rowZr normrM mulrC -scalerA scalerBr.
  - rewrite (bigD1 i) //= eqxx at_row0 normr0 scale0r add0r; apply: eq_bigr => k /negbTE->.
    by rewrite uE at_rowZr normrM mulrC -scalerA scalerBr.
  rewrite -sumrN [RHS]big_mkcond; apply: eq_bigr => j _ /=.
  by case: (j \notin codom s); [rewrite scalerN | rewrite at_row0 normr0 scale0r].
pose S i := c i < 0; exists S.
pose Q := \matrix_(r < #|extra|) unit_of U' (enum_val r).
have off x j : x *m Q^T = 0 -> extra j -> at_row x (unit_of U' j) = 0.
  move=> xQ j_extra; have /rowP/(_ (enum_rank_in j_extra j)) := xQ; rewrite !mxE => zero.
  by rewrite /at_row mxE -[RHS]zero; apply: eq_bigr => k _; rewrite !mxE enum_rankK_in.
have kernel (x : 'rV_d) : x *m Q^T = 0 -> x *m (U *m on F S *m W + M) = 0.
  move=> xQ; apply/eqP; suff : (x *m (U *m on F S *m W + M)) *+ 2 == 0 by rewrite -scaler_nat scalemx_eq0 pnatr_eq0.
  have [_ odd] := parts x; rewrite mulmxDr mulrnDl -[(x *m M) *+ 2](addrK (x *m U *m W)) odd !read_sum split_sum /=.
  rewrite [X in _ + (_ + X - _)]big1 => [|j j_extra]; last by rewrite off // scale0r.
  rewrite addr0 -(mulmxA U) mulmxA !read_sum -sumrMnl -sumrB -big_split big1 //= => i _.
  have -> : row i (on F S *m W) = (S i)%:R *: row i W by apply/rowP=> k; rewrite /on mul_diag_mx !mxE.
  rewrite uE at_rowZr; have [i_alone|/forallPn[j]] := boolP (alone i); last first.
    rewrite !negb_imply => /and4P[j_extra j_neq0 /sub_rVP[a jE] _].
    have := off x j xQ j_extra; rewrite jE at_rowZr => /eqP; rewrite mulf_eq0; case: eqP => [a0|_ /eqP->].
      by rewrite jE a0 scale0r eqxx in j_neq0.
    by rewrite mulr0 !scale0r mul0rn add0r subr0.
  rewrite [row i W](wE i i_alone) /S; case: ltrgt0P (c_neq0 i) => // c_sign _; rewrite ?scale0r ?scale1r ?scaler0 ?mul0rn.
    by rewrite add0r scalerA mulrC subrr.
  by rewrite scalerA mulrN scaleNr [_ * c i]mulrC mulNrn opprK -mulr2n addNr.
have zero : kermx Q^T *m (U *m on F S *m W + M) = 0.
  by apply/row_matrixP=> r; rewrite row_mul row0; apply: kernel; rewrite -row_mul mulmx_ker row0.
have := mulmx0_rank_max zero; rewrite mxrank_ker mxrank_tr addnC => rank_le.
have Q_le : (\rank Q <= #|extra|)%N := rank_leq_row Q.
have total : (m + #|extra| = m')%N.
  by rewrite -[RHS]card_ord -(cardC (mem (codom s))) card_codom // card_ord; congr (_ + _)%N; apply: eq_card.
rewrite (_ : (m' - m)%N = #|extra|); last by rewrite -[X in (X - m)%N]total addKn.
apply: leq_trans Q_le; rewrite -(leq_add2r (d - \rank Q)) (leq_trans rank_le) //.
by rewrite subnKC // rank_leq_col.
Qed.

Theorem relu_absorption_iff M U W : general_position U W ->
  relu_absorbs M U W <-> exists S : pred 'I_m, U *m on F S *m W = - M.
Proof.
move=> general; split=> [[U' [W' same]]|[S cancels]].
  have [S] := units_needed general same; rewrite subnn leqn0 mxrank_eq0 addr_eq0 => /eqP cancels.
  by exists S.
exists (U *m signs F S), W => x.
have [_ /(_ M)] := sign_flip_identity 1 S U 0 W 0 (@relu_split F); rewrite scale1r => /(_ cancels x).
by rewrite /layer !mul0mx scaler0 addr0 !mulmx0 !addr0.
Qed.

(** Flipping a set of units takes at least as many units as the map has rank. *)
Lemma flipped_rank M U W (S : pred 'I_m) : U *m on F S *m W = - M -> (\rank M <= #|S|)%N.
Proof.
move=> cancels; rewrite -mxrank_opp -cancels; apply: leq_trans (mxrankM_maxl _ _) (leq_trans (mxrankM_maxr _ _) _).
rewrite /on diag_mx_sum_delta -sum1_card [X in (_ <= X)%N]big_mkcond /=.
apply: (big_ind2 (fun A k => \rank A <= k)%N) => [|A k B l Ak Bl|i _]; first by rewrite mxrank0.
  exact: leq_trans (mxrank_add A B) (leq_add Ak Bl).
by rewrite mxE unfold_in; case: (S i); rewrite ?scale1r ?scale0r ?mxrank0 // mxrank_delta.
Qed.
End ReLUIff.
Print Assumptions units_needed.
Print Assumptions relu_absorption_iff.
Print Assumptions flipped_rank.

(** ** Reading published errors

    [t]: the target, [p]: the prediction, whose residual is orthogonal to it.  The
    square of the cosine is one minus the square of the relative error. *)
Theorem cos_error_relation (F : realFieldType) n (t p : 'rV[F]_n) :
  let inner (u v : 'rV[F]_n) := (u *m v^T) 0 0 in
  inner (t - p) p = 0 -> t != 0 -> p != 0 ->
  inner t p ^+ 2 / (inner t t * inner p p) = 1 - inner (t - p) (t - p) / inner t t.
Proof.
move=> inner orthogonal t_neq0 p_neq0.
have innerDl u v w : inner (u + v) w = inner u w + inner v w by rewrite /inner mulmxDl mxE.
have innerC u v : inner u v = inner v u by rewrite /inner !mxE; apply: eq_bigr => k _; rewrite !mxE mulrC.
have self_neq0 u : u != 0 -> inner u u != 0 by exact: at_row_self.
have tp : inner t p = inner p p by rewrite -[t](subrK p) innerDl orthogonal add0r.
have tt : inner t t = inner (t - p) (t - p) + inner p p.
  have -> : inner t t = inner (t - p + p) t by rewrite subrK.
  rewrite innerDl (innerC p) tp; congr (_ + _); rewrite innerC.
  have -> : inner t (t - p) = inner (t - p + p) (t - p) by rewrite subrK.
  by rewrite innerDl (innerC p) orthogonal addr0.
rewrite tp expr2 -mulf_div divff ?self_neq0 // mulr1.
by apply: (mulIf (self_neq0 _ t_neq0)); rewrite mulrBl mul1r !divfK ?self_neq0 // tt [RHS]addrC addKr.
Qed.
Print Assumptions cos_error_relation.
