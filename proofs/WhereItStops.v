(** * Where it stops

    What the eliminations of the chapters before do not reach: the identity skip
    around the MLP, norms, tied readouts, singular projections, narrow keys and
    values; and what is left there.  A norm lets rotations through, so a query
    projection becomes triangular or symmetric in place of the identity. *)
From mathcomp Require Import all_ssreflect all_algebra.
From QKV Require Import ThreeProducts Reparametrization Skipless AttentionSkip EverySkip SharedQueries.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import Order.TTheory GRing.Theory Num.Theory.
Local Open Scope ring_scope.

(** ** The identity skip around the MLP *)
Section Defect.
Variables (R : comUnitRingType) (n d dq dk dv e h1 h2 : nat).
Implicit Types (b : block R n.+1 d dq dk dv e h1 h2) (T : 'M[R]_d).

(** The two halves of a block. *)
Definition attention_half b X := if attention_skip b then X + mha (attn b) X else mha (attn b) X.
Definition mlp_half b Y := let M := act b (Y *m W_up b) *m W_down b in if mlp_skip b then Y + M else M.

Lemma halves b X : run_block b X = mlp_half b (attention_half b X).
Proof. by []. Qed.

(** The weights that carry [T1] into [T2] where nothing goes around the MLP leave
    [Y *m (T1 - T2)] over.  H1: the skip, and no norm.  H2: [T1] is invertible.
    H3: every [Y]. *)
Theorem mlp_skip_defect b T1 T2 : mlp_skip b ->
  T1 \in unitmx ->
  (forall Y, mlp_half (rebase b T1 T2) (Y *m T1) = mlp_half b Y *m T2 + Y *m (T1 - T2)) /\
  ((forall Y, mlp_half (rebase b T1 T2) (Y *m T1) = mlp_half b Y *m T2) <-> T1 = T2).
Proof.
move=> skip T1_inv; have defect Y : mlp_half (rebase b T1 T2) (Y *m T1) = mlp_half b Y *m T2 + Y *m (T1 - T2).
  rewrite /mlp_half /= skip basis_cancel // mulmxBr mulmxDl [Y *m T2 + _]addrC -addrA [Y *m T2 + _]addrC subrK.
  by rewrite addrC mulmxA.
split=> //; split=> [exact_for|same Y]; last by rewrite defect -same subrr mulmx0 addr0.
apply: (@mulmx_ext _ n) => Y; apply/eqP; rewrite -subr_eq0 -mulmxBr; apply/eqP.
by apply: (addrI (mlp_half b Y *m T2)); rewrite -defect exact_for addr0.
Qed.

(** A whole block leaves the same, at its state after attention. *)
Lemma mlp_skip_defect_block b T1 T2 X : mlp_skip b -> T1 \in unitmx ->
  run_block (rebase b T1 T2) (X *m T1) = run_block b X *m T2 + attention_half b X *m (T1 - T2).
Proof.
move=> skip T1_inv; have [defect _] := mlp_skip_defect T2 skip T1_inv; rewrite !halves -defect; congr (mlp_half _ _).
by rewrite /attention_half rebase_attention //=; case: (attention_skip b); rewrite -?mulmxDl.
Qed.
End Defect.
Print Assumptions mlp_skip_defect.
Print Assumptions mlp_skip_defect_block.

(** ** A linear skip in its place

    With both skips: [A] stands where the identity stood around the MLP. *)
Section Repair.
Variables (R : comUnitRingType) (n d v w : nat).
Implicit Types (s : stage R n d) (A T leave : 'M[R]_d) (ls : seq (stage R n d)).

Definition run_linear s A X := let Y := X + attend s X in Y *m A + transform s Y.
Definition both_skips s := [&& ~~ parallel s, attention_skip (inner s) & mlp_skip (inner s)].

Lemma run_linear_one s X : both_skips s -> run_linear s 1%:M X = run_stage s X.
Proof. by case/and3P=> /negbTE serial skip1 skip2; rewrite /run_linear /run_stage serial skip1 skip2 mulmx1. Qed.

Definition linear_skip T leave := invmx T *m leave.

Lemma run_linear_rebased s T leave X : both_skips s -> no_norm s -> T \in unitmx ->
  run_linear (rebase_stage s T T leave) (linear_skip T leave) (X *m T) = run_stage s X *m leave.
Proof.
move=> skips unnormed T_inv; have [norm1 norm2] := no_norm_commutes T unnormed.
have := @transform_rebased _ _ _ s T T leave; rewrite -(run_linear_one _ skips) /run_linear attend_rebased //.
case/and3P: skips => /negbTE -> _ _ mlp.
by rewrite -mulmxDl mlp // basis_cancel // mulmx1 -mulmxDl.
Qed.

(** Every layer is entered in the basis that is its own [WQ]; the last state stays. *)
Definition first_query ls : 'M_d := if ls is s :: _ then query s else 1%:M.

Fixpoint repaired ls := if ls is s :: rest then
    let leave := first_query rest in (rebase_stage s (query s) (query s) leave, linear_skip (query s) leave) :: repaired rest
  else [::].

Definition run_linears := foldl (fun X (sA : stage R n d * 'M_d) => run_linear sA.1 sA.2 X).

(** H1: the skips of [repaired] are any matrices.  H2, H3: the premises.  H4: the
    readout [U] is a matrix of its own, and it is not changed.  If the identity is
    kept, what the MLP writes has to gain [Y *m (A - 1)]. *)
Theorem basis_skip_repair (E : 'M_(v, d)) (P : 'M_(n, d)) ls (U : 'M_(d, w)) :
  all both_skips ls ->
  each (@no_norm R n d) ls ->
  all (fun s => query s \in unitmx) ls ->
  [/\ all (fun sA => query sA.1 == 1%:M) (repaired ls),
      forall tokens, let T := first_query ls in
        run_linears (tokens *m (E *m T) + P *m T) (repaired ls) *m U = run_stack (Stack E P ls U) tokens
    & forall s A X, run_linear s A X = X + attend s X + (transform s (X + attend s X) + (X + attend s X) *m (A - 1%:M))].
Proof.
move=> skips unnormed inv; split=> [|tokens T|s A X].
- elim: ls inv {skips unnormed} => [|s ls IH] //= /andP[s_inv inv].
  by rewrite {1}/query projection_becomes_one // eqxx IH.
- rewrite /T mulmxA -mulmxDl /run_stack /=; congr (_ *m U); move: (_ + P) => X.
  elim: ls X skips unnormed inv {T} => [|s ls IH] X /=; first by rewrite mulmx1.
  by case/andP=> skip skips [un uns] /andP[s_inv inv]; rewrite run_linear_rebased ?IH.
by rewrite /run_linear; set Y := X + _; rewrite mulmxBr mulmx1 (addrCA Y) (addrC Y) subrK addrC.
Qed.
End Repair.
Print Assumptions basis_skip_repair.

(** ** What a norm lets through

    [normed scale] multiplies [X] by what [scale] makes of the inner products of its
    rows.  RMSNorm is of this kind: its [scale] is the diagonal matrix of the inverse
    roots of the mean squares.  All constructions work for every [scale]. *)
Section Norms.
Variables (R : comUnitRingType) (n d : nat).
Implicit Types (T : 'M[R]_d) (X : 'M[R]_(n, d)) (scale : 'M[R]_n -> 'M[R]_n).

Definition normed scale X := scale (X *m X^T) *m X.
Definition orthogonal T := T *m T^T = 1%:M.

Lemma orthogonal_unit T : orthogonal T -> T \in unitmx.
Proof. by case/mulmx1_unit. Qed.

Lemma orthogonal_inv T : orthogonal T -> invmx T = T^T.
Proof. by move=> T_ort; rewrite -[LHS]mulmx1 -T_ort mulKmx ?orthogonal_unit. Qed.

Lemma orthogonal_tr T : orthogonal T -> T^T *m T = 1%:M.
Proof. by move=> T_ort; rewrite -orthogonal_inv // mulVmx ?orthogonal_unit. Qed.

Lemma orthogonal1 : orthogonal (1%:M : 'M[R]_d).
Proof. by rewrite /orthogonal trmx1 mulmx1. Qed.

Lemma gram_orthogonal T X : orthogonal T -> (X *m T) *m (X *m T)^T = X *m X^T.
Proof. by move=> T_ort; rewrite trmx_mul mulmxA -(mulmxA X) T_ort mulmx1. Qed.

Lemma normed_orthogonal scale T : orthogonal T -> commutes (normed scale) T.
Proof. by move=> T_ort X; rewrite /normed gram_orthogonal // mulmxA. Qed.
End Norms.

Section RmsNorm.
Variables (R : rcfType) (d : nat).
Implicit Types (h k : 'rV[R]_d.+1) (G M Q : 'M[R]_d.+1) (eps : R).

Definition squared h := (h *m h^T) 0 0.
Definition rms_scale eps (s : R) := (Num.sqrt (s / d.+1%:R + eps))^-1.
Definition rms n eps : 'M_(n, d.+1) -> 'M_(n, d.+1) := normed (fun G : 'M_n => diag_mx (\row_i rms_scale eps (G i i))).

Lemma rms_row eps h : rms eps h = rms_scale eps (squared h) *: h.
Proof. by apply/rowP=> j; rewrite /rms /normed mul_diag_mx [LHS]mxE [X in X * _]mxE [RHS]mxE. Qed.

Lemma squaredE h : squared h = \sum_j h 0 j ^+ 2.
Proof. by rewrite /squared mxE; apply: eq_bigr => j _; rewrite !mxE expr2. Qed.

Lemma squared_ge0 h : 0 <= squared h.
Proof. by rewrite squaredE; apply: sumr_ge0 => j _; apply: sqr_ge0. Qed.

Lemma squared_eq0 h : (squared h == 0) = (h == 0).
Proof.
apply/eqP/eqP=> [h0|->]; last by rewrite /squared mul0mx mxE.
apply/rowP=> j; rewrite mxE; apply/eqP; rewrite -sqrf_eq0.
have /psumr_eq0P zero : forall j : 'I_d.+1, true -> 0 <= h 0 j ^+ 2 by move=> ? _; apply: sqr_ge0.
by rewrite zero // -squaredE.
Qed.

Lemma squaredZ c h : squared (c *: h) = c ^+ 2 * squared h.
Proof. by rewrite /squared linearZ /= -scalemxAl -scalemxAr !mxE mulrA expr2. Qed.

Lemma addE m n (A B : 'M[R]_(m, n)) i j : (A + B) i j = A i j + B i j.
Proof. by rewrite mxE. Qed.

Lemma scaleE m n c (A : 'M[R]_(m, n)) i j : (c *: A) i j = c * A i j.
Proof. by rewrite mxE. Qed.

Definition dot h k := (h *m k^T) 0 0.

Lemma squaredD h k : squared (h + k) = squared h + dot h k *+ 2 + squared k.
Proof.
rewrite /squared [(h + k)^T]linearD /= mulmxDl !mulmxDr.
have -> : k *m h^T = h *m k^T by rewrite -[LHS]trmxK trmx_mul trmxK; apply/matrixP=> i j; rewrite !ord1 mxE.
by rewrite mulr2n /dot !addE !addrA.
Qed.

Lemma parallelogram h k : squared (h + k) + squared (h - k) = (squared h + squared k) *+ 2.
Proof.
have -> : squared (h - k) = squared h - dot h k *+ 2 + squared k.
  by rewrite squaredD -scaleN1r squaredZ sqrrN expr1n mul1r /dot linearZ -scalemxAr scaleE mulN1r mulNrn.
by rewrite squaredD addrACA (addrACA (squared h)) subrr addr0 mulrnDl !mulr2n.
Qed.

(** Rows of equal lengths in both bases: an orthogonal matrix. *)
Lemma isometry M : (forall h, squared (h *m M) = squared h) -> orthogonal M.
Proof.
move=> same; have dots h k : dot (h *m M) (k *m M) = dot h k.
  apply: (@pmulrnI _ 2) => //; apply: (addrI (squared h)); apply: (addIr (squared k)).
  by rewrite -[RHS]squaredD -(same (h + k)) mulmxDl squaredD !same.
have entry A i j : dot (delta_mx 0 i *m A) (delta_mx 0 j *m A) = (A *m A^T) i j.
  by rewrite /dot trmx_mul mulmxA -(mulmxA _ A) trmx_delta -rowE -colE !mxE; apply: eq_bigr => k _; rewrite !mxE.
apply/matrixP=> i j; rewrite -entry dots -[1%:M]mulmx1 -{2}(trmx1 _ d.+1) -entry !mulmx1.
by [].
Qed.

(** It is enough to know this where some other matrix that is not zero does not vanish. *)
Lemma isometry_where G M : G != 0 ->
  (forall h, h *m G != 0 -> squared (h *m M) = squared h) -> (forall h, h *m G = 0 -> h *m M = 0) -> orthogonal M.
Proof.
move=> G_neq0 same kernel; apply: isometry => h.
have [hG|/same //] := eqVneq (h *m G) 0.
have [i Gi] : exists i, row i G != 0.
  by apply/existsP; apply: contraNT G_neq0 => /existsPn zero; apply/eqP/row_matrixP=> i; rewrite row0; apply/eqP/negPn.
pose k := delta_mx 0 i : 'rV[R]_d.+1; have kG : k *m G != 0 by rewrite -rowE.
have hM := kernel _ hG; have zero : squared h = 0.
  have := parallelogram k h.
  rewrite -(same (k + h)) ?mulmxDl ?hG ?addr0 // -(same (k - h)) ?mulmxBl ?hG ?subr0 //.
  by rewrite hM addr0 subr0 same // -mulr2n => /(@pmulrnI _ 2 isT)/eqP; rewrite -subr_eq0 opprD addNKr oppr_eq0 => /eqP.
by rewrite hM zero /squared mul0mx mxE.
Qed.

(** A matrix for which every row is an eigenvector is a multiple of the identity. *)
Lemma every_row_eigen (P : R -> Prop) (B : 'M[R]_d.+1) :
  (forall h, exists2 c, P c & h *m B = c *: h) -> exists2 c, P c & B = c%:M.
Proof.
move=> eigen; have [c c_P Bc] := eigen (delta_mx 0 0); exists c => //.
apply/row_matrixP=> i; rewrite !rowE mul_mx_scalar.
have [-> //|i_neq0] := eqVneq i 0.
have [c' _ Bi] := eigen (delta_mx 0 i); rewrite Bi; congr (_ *: _).
have [b _] := eigen (delta_mx 0 0 + delta_mx 0 i); rewrite mulmxDl Bc Bi => /rowP both.
have := both 0; have := both i; rewrite !mxE !eqxx (negPf i_neq0) [0 == i]eq_sym (negPf i_neq0).
by rewrite !(mulr0, mulr1, addr0, add0r) => -> ->.
Qed.

Lemma rms_scale_gt0 eps s : 0 < s / d.+1%:R + eps -> 0 < rms_scale eps s.
Proof. by rewrite invr_gt0 sqrtr_gt0. Qed.

Lemma rms_scale_squared eps s : 0 < s / d.+1%:R + eps -> rms_scale eps s ^+ 2 = (s / d.+1%:R + eps)^-1.
Proof. by move=> /ltW ge0; rewrite exprVn sqr_sqrtr. Qed.

Lemma rms_some eps s : 0 < eps -> 0 <= s -> 0 < s / d.+1%:R + eps.
Proof. by move=> eps_gt0 s_ge0; rewrite ltr_paddl // divr_ge0 // ler0n. Qed.

(** Rows [x] and [y] that one pair of factors makes equal and another too. *)
Lemma same_ratio (x y : 'rV[R]_d.+1) (p q p' q' : R) : x != 0 -> p *: x = q *: y -> p' *: x = q' *: y -> p * q' = p' * q.
Proof.
move=> x_neq0 one two; apply/eqP; rewrite -subr_eq0; have : (p * q' - p' * q) *: x == 0.
  by rewrite scalerBl subr_eq0 (mulrC p) (mulrC p') -!scalerA one two !scalerA mulrC.
by rewrite scaler_eq0 (negPf x_neq0) orbF.
Qed.

Lemma rms_orthogonal eps G : 0 < eps -> G != 0 -> forall M, (forall h, rms eps (h *m G) = rms eps h *m M) -> orthogonal G.
Proof.
move=> eps_gt0 G_neq0 M same.
apply: (@isometry_where G) => // h hG.
have some s := @rms_some eps s eps_gt0.
set a := squared (h *m G); set b := squared h.
have a_ge0 : 0 <= a := squared_ge0 _; have b_ge0 : 0 <= b := squared_ge0 _.
have four (s : R) : 0 <= s -> 0 <= 2%:R ^+ 2 * s by move=> s_ge0; rewrite mulr_ge0 ?sqr_ge0.
have row_same c : (rms_scale eps (c ^+ 2 * a) * c) *: (h *m G) = (rms_scale eps (c ^+ 2 * b) * c) *: (h *m M).
  by have := same (c *: h); rewrite !rms_row -!scalemxAl !squaredZ !scalerA.
have := same_ratio hG (row_same 1) (row_same 2%:R).
rewrite expr1n !mul1r !mulr1 mulrA [RHS]mulrAC => /mulIf; rewrite pnatr_eq0 => /(_ isT).
move/(congr1 (fun x => x ^+ 2)); rewrite !exprMn !rms_scale_squared ?some ?four // -2!invfM => /invr_inj.
have times4 s : 2%:R ^+ 2 * s / d.+1%:R + eps = (s / d.+1%:R + eps) + (s / d.+1%:R) *+ 3.
  by rewrite addrAC -mulrS -mulrA -natrX mulr_natl.
rewrite !times4 mulrDr [RHS]mulrDl => /addrI; rewrite mulrnAr mulrnAl => /(@pmulrnI _ 3 isT).
rewrite mulrDl mulrDr => /addrI; rewrite mulrC => /(mulIf (lt0r_neq0 eps_gt0))/esym/mulIf-> //.
by rewrite invr_eq0 pnatr_eq0.
Qed.

Lemma rms_multiple G : G != 0 -> forall M, (forall h, rms 0 (h *m G) = rms 0 h *m M) ->
  orthogonal M /\ exists2 c, 0 < c & G = c *: M.
Proof.
move=> G_neq0 M same; have some s : 0 < s -> 0 < s / d.+1%:R + 0 by move=> s_gt0; rewrite addr0 divr_gt0 // ltr0Sn.
have positive h : h != 0 -> 0 < squared h by move=> h_neq0; rewrite lt_def squared_ge0 squared_eq0 h_neq0.
have kernel h : h *m G = 0 -> h *m M = 0.
  move=> hG; have [->|h_neq0] := eqVneq h 0; first by rewrite mul0mx.
  have := same h; rewrite !rms_row hG scaler0 -scalemxAl => /esym/eqP.
  by rewrite scaler_eq0 gt_eqF ?rms_scale_gt0 ?some ?positive // => /eqP.
have size_one h : h != 0 -> squared (rms 0 h) = d.+1%:R.
  move=> h_neq0; rewrite rms_row squaredZ rms_scale_squared ?some ?positive // addr0 invfM invrK.
  by rewrite mulrAC mulVf ?mul1r // gt_eqF ?positive.
have M_ort : orthogonal M.
  apply: (isometry_where G_neq0) => // h hG.
  have h_neq0 : h != 0 by apply: contraNneq hG => ->; rewrite mul0mx.
  have := size_one _ hG; rewrite same -(size_one _ h_neq0) rms_row -scalemxAl !squaredZ => /mulfI-> //.
  by rewrite expf_eq0 /= gt_eqF ?rms_scale_gt0 ?some ?positive.
have [|c c_ge0 GM] := @every_row_eigen (fun c => 0 <= c) (G *m M^T).
  move=> h; have [hG|hG] := eqVneq (h *m G) 0.
    by exists 0; rewrite ?lexx // mulmxA hG mul0mx scale0r.
  have h_neq0 : h != 0 by apply: contraNneq hG => ->; rewrite mul0mx.
  have gt0 k : k != 0 -> 0 < rms_scale 0 (squared k) by move=> ?; rewrite rms_scale_gt0 ?some ?positive.
  exists ((rms_scale 0 (squared (h *m G)))^-1 * rms_scale 0 (squared h)).
    by apply/ltW/mulr_gt0; [rewrite invr_gt0|]; apply: gt0.
  have := same h; rewrite !rms_row -scalemxAl => /(congr1 (fun x => (rms_scale 0 (squared (h *m G)))^-1 *: (x *m M^T))).
  rewrite -!scalemxAl !scalerA mulVf ?gt_eqF ?gt0 // scale1r -!mulmxA M_ort mulmx1 => ->.
  by [].
have GE : G = c *: M by rewrite -mul_scalar_mx -GM -mulmxA orthogonal_tr // mulmx1.
split=> //; exists c => //; rewrite lt_def c_ge0 andbT; apply: contraNneq G_neq0 => c0.
by rewrite GE c0 scale0r.
Qed.
Lemma rms_scaled c Q h : 0 < c -> orthogonal Q -> rms 0 (h *m (c *: Q)) = rms 0 h *m Q.
Proof.
move=> c_gt0 Q_ort; rewrite -scalemxAr !rms_row squaredZ /squared gram_orthogonal // -/(squared h) scalerA -scalemxAl.
congr (_ *: _); rewrite /rms_scale !addr0 -mulrA sqrtrM ?sqr_ge0 // sqrtr_sqr gtr0_norm // invfM mulrAC.
by rewrite mulVf ?mul1r // gt_eqF.
Qed.

(** H1: the right-hand sides.  H2: [G] is not zero. *)
Theorem rmsnorm_orthogonal_only G : G != 0 ->
  (forall eps, 0 < eps -> forall M, (forall h, rms eps (h *m G) = rms eps h *m M) <-> orthogonal G /\ M = G) /\
  (forall M, (forall h, rms 0 (h *m G) = rms 0 h *m M) <-> orthogonal M /\ exists2 c, 0 < c & G = c *: M).
Proof.
move=> G_neq0; split=> [eps eps_gt0|] M; split=> [same|].
- have G_ort := rms_orthogonal eps_gt0 G_neq0 same; split=> //.
  apply: (@mulmx_ext _ 0) => h; have := same h; rewrite /rms (normed_orthogonal _ G_ort) -/(rms _ _) rms_row -!scalemxAl.
  by move/(scalerI (lt0r_neq0 (rms_scale_gt0 (rms_some eps_gt0 (squared_ge0 h))))).
- by case=> G_ort -> h; apply: normed_orthogonal.
- exact: rms_multiple.
by case=> M_ort [c c_gt0 ->] h; apply: rms_scaled.
Qed.

End RmsNorm.

(** ** Networks with norms

    A network with a norm [last] before its readout, and a bias [b] after it. *)
Section NormedStacks.
Variables (R : comUnitRingType) (n d : nat).
Implicit Types (s : stage R n d) (T : 'M[R]_d) (norm last : 'M[R]_(n, d) -> 'M[R]_(n, d)).

Definition run_last v w last (b : 'rV_w) (N : stack R n d v w) (tokens : 'M_(n, v)) :=
  last (run_stages (tokens *m embed N + shift N) (stages N)) *m decode N + ones *m b.

Definition with_norms s norm1 norm2 :=
  Stage (inner s) (bias_Q s) (bias_K s) (bias_V s) (bias_O s) (bias_up s) (bias_down s) norm1 norm2 (parallel s).

(** *** Gains first

    A norm with a gain [g] and a bias [c]; both go into the weights that read it. *)
Record gained := Gained { bare : 'M[R]_(n, d) -> 'M[R]_(n, d);  gain : 'rV[R]_d;  bias_row : 'rV[R]_d }.

Definition run_gained f X := bare f X *m diag_mx (gain f) + ones *m bias_row f.

Definition fold_gains s f g := let b := inner s in let a := attn b in let F := diag_mx (gain f) in
  Stage (Block (Attention (core a) (F *m W_Q a) (F *m W_K a) (F *m W_V a) (W_O a))
               (act b) (diag_mx (gain g) *m W_up b) (W_down b) (attention_skip b) (mlp_skip b))
        (bias_Q s + bias_row f *m W_Q a) (bias_K s + bias_row f *m W_K a) (bias_V s + bias_row f *m W_V a) (bias_O s)
        (bias_up s + bias_row g *m W_up b) (bias_down s) (bare f) (bare g) (parallel s).

Lemma read_folded f m (W : 'M_(d, m)) b X :
  bare f X *m (diag_mx (gain f) *m W) + ones *m (b + bias_row f *m W) = run_gained f X *m W + ones *m b.
Proof. by rewrite /run_gained mulmxDl mulmxDr !mulmxA addrCA addrC. Qed.

Lemma fold_gains_run s f g X : run_stage (fold_gains s f g) X = run_stage (with_norms s (run_gained f) (run_gained g)) X.
Proof.
have attends Y : attend (fold_gains s f g) Y = attend (with_norms s (run_gained f) (run_gained g)) Y.
  by rewrite /attend /mha_biased /= !read_folded.
have transforms Y : transform (fold_gains s f g) Y = transform (with_norms s (run_gained f) (run_gained g)) Y.
  by rewrite /transform /= !read_folded.
by rewrite /run_stage !attends !transforms.
Qed.

(** H1: what leaves a norm goes into weights and nowhere else: those of its sublayer, or the readout. *)
Theorem gain_folding v w (E : 'M_(v, d)) (P : 'M_(n, d)) (ls : seq (stage R n d * (gained * gained))) (U : 'M_(d, w)) f b
    tokens :
  run_last (bare f) (b + bias_row f *m U) (Stack E P [seq fold_gains x.1 x.2.1 x.2.2 | x <- ls] (diag_mx (gain f) *m U)) tokens
  = run_last (run_gained f) b
      (Stack E P [seq with_norms x.1 (run_gained x.2.1) (run_gained x.2.2) | x <- ls] U) tokens.
Proof.
rewrite /run_last /= read_folded; congr (run_gained f _ *m _ + _).
by elim: ls (_ + P) => [|x ls IH] X //=; rewrite fold_gains_run IH.
Qed.

(** *** Rotations

    Every norm of the layer is an RMSNorm without gain (or with none at all). *)
Definition rotatable s := forall T, orthogonal T -> commutes (attention_norm s) T /\ commutes (mlp_norm s) T.

Definition rms_stage s := exists scale1 scale2, attention_norm s = normed scale1 /\ mlp_norm s = normed scale2.

Lemma rms_rotatable s : rms_stage s -> rotatable s.
Proof. by case=> f [g [norm1 norm2]] T T_ort; rewrite norm1 norm2; split; apply: normed_orthogonal. Qed.

Lemma carry_run_last v w last b (E : 'M_(v, d)) P p T (U : 'M_(d, w)) tokens :
  fitting p T -> T \in unitmx -> commutes last T ->
  run_last last b (carry_stack E P p T U) tokens = run_last last b (Stack E P (unzip1 p) U) tokens.
Proof. by move=> fit T_inv comm; rewrite /run_last /= mulmxA -mulmxDl carry_run // comm basis_cancel. Qed.

(** One basis for the whole network: any orthogonal matrix, whatever the topology. *)
Lemma rotate_run v w last b T (N : stack R n d v w) tokens : T \in unitmx -> commutes last T ->
  each (fun s => commutes (attention_norm s) T /\ commutes (mlp_norm s) T) (stages N) ->
  run_last last b (conjugate_stack T N) tokens = run_last last b N tokens.
Proof.
move=> T_inv comm comms; rewrite conjugate_carries carry_run_last //.
  by case: N {comms} => E P ls U /=; congr (run_last _ _ (Stack _ _ _ _)); elim: ls => //= s ls ->.
elim: (stages N) comms => //= s ls IH [[comm1 comm2] rest]; split; last exact: IH.
have -> : entering [seq (s, (T, T)) | s : stage R n d <- ls] T = T by case: (ls).
by split=> //; case: (parallel s).
Qed.

Lemma square_mul p (A : 'M[R]_d) (W : 'M_(d, p)) : square (A *m W) = A *m square W.
Proof.
have [dp|dp] := eqVneq d p; first by move: W; rewrite /square -dp => W; rewrite !conform_mx_id.
have not_square : (d != d) || (p != d) by rewrite orbC eq_sym dp.
by rewrite /square !(nonconform_mx _ _ not_square) mulmx0.
Qed.

Lemma query_rebased s T middle leave : query (rebase_stage s T middle leave) = invmx T *m query s.
Proof. by rewrite /query /projection -square_mul; case: s => ? ? ? ? ? ? b ? ? ? ? ? ? ? ? []. Qed.

Lemma query_rotated s T B middle leave : orthogonal T -> query s = T *m B -> query (rebase_stage s T middle leave) = B.
Proof. by move=> T_ort QE; rewrite query_rebased QE mulKmx ?orthogonal_unit. Qed.
End NormedStacks.
Print Assumptions gain_folding.

(** ** Under RMSNorm a query projection becomes triangular, or symmetric

    [W_Q = O *m B] with an orthogonal [O]: the basis [O] leaves [B].  The factors are
    those of QR ([B] triangular) or of the polar form ([B] symmetric); nothing is
    inverted.  With every skip there is one [O] for the network. *)
Definition triangular (R : ringType) d (B : 'M[R]_d) := forall i j : 'I_d, (j < i)%N -> B i j = 0.

Section Rotated.
Variables (R : comUnitRingType) (n d v w : nat).
Implicit Types (s : stage R n d) (O B : 'M[R]_d) (scale : 'M[R]_n -> 'M[R]_n) (E : 'M[R]_(v, d)) (U : 'M[R]_(d, w)).

Lemma one_rotation scale b E P before s after U O B :
  let N := Stack E P (before ++ s :: after) U in
  each (@rms_stage R n d) (stages N) -> orthogonal O -> query s = O *m B ->
  query (nth s (stages (conjugate_stack O N)) (size before)) = B /\
  forall tokens, run_last (normed scale) b (conjugate_stack O N) tokens = run_last (normed scale) b N tokens.
Proof.
move=> N norms O_ort QE; split=> [|tokens].
  by rewrite /= map_cat nth_cat size_map ltnn subnn /=; apply: query_rotated QE.
apply: rotate_run; [exact: orthogonal_unit | exact: normed_orthogonal |].
by elim: (stages N) norms => //= t ls IH [/rms_rotatable/(_ O O_ort) comm norms]; split=> //; apply: IH.
Qed.

(** H1: every norm is an RMSNorm without gain.  H2: with every skip, one layer.  H3: the
    readout [U] is a matrix of its own. *)
Theorem rms_triangular scale b E P before s after U O B :
  let N := Stack E P (before ++ s :: after) U in
  each (@rms_stage R n d) (stages N) -> orthogonal O -> query s = O *m B -> triangular B ->
  triangular (query (nth s (stages (conjugate_stack O N)) (size before))) /\
  forall tokens, run_last (normed scale) b (conjugate_stack O N) tokens = run_last (normed scale) b N tokens.
Proof. by move=> N norms O_ort QE B_tri; have [-> same] := one_rotation scale b norms O_ort QE. Qed.

(** With at most one skip around attention or MLP there is an [O] for every layer. *)
Definition rotated (p : seq (stage R n d * ('M[R]_d * 'M[R]_d))) := thread [seq (x.1, x.2.1) | x <- p].

Lemma thread_rotated (ls : seq (stage R n d * 'M[R]_d)) : all (fun sT => free_of_loops sT.1) ls ->
  each (fun sT => rms_stage sT.1) ls -> each (fun sT => orthogonal sT.2) ls -> fitting (thread ls) 1%:M.
Proof.
elim: ls => [|[s T] ls IH] //= /andP[free frees] [/rms_rotatable rot rots] [T_ort Ts_ort]; split; last exact: IH.
have leave_ort : orthogonal (entering (thread ls) 1%:M).
  by case: (ls) Ts_ort => [|[s' T'] ls'] /=; [move=> _; apply: orthogonal1 | case].
have [comm1 comm2] := rot _ T_ort; have [_ comm_leave] := rot _ leave_ort; have [_ comm_one] := rot _ (@orthogonal1 R d).
split=> //; first exact: orthogonal_unit.
move: free; rewrite /free_of_loops /dictated.
by case: (attention_skip _); case: (mlp_skip _); case: (parallel _) => // _; split=> //; rewrite ?unitmx1 ?orthogonal_unit.
Qed.

Lemma rms_triangular_layers scale b E P p U :
  all (fun x => free_of_loops x.1) p -> each (fun x => rms_stage x.1) p ->
  each (fun x => orthogonal x.2.1 /\ query x.1 = x.2.1 *m x.2.2) p ->
  let T := entering (rotated p) 1%:M in let new := carry (rotated p) 1%:M in
  [seq query s | s <- new] = [seq x.2.2 | x <- p] /\
  forall tokens, run_last (normed scale) b (Stack (E *m T) (P *m T) new U) tokens
    = run_last (normed scale) b (Stack E P (unzip1 p) U) tokens.
Proof.
move=> free norms factors T new; split=> [|tokens].
  rewrite /new /rotated; elim: p factors {free norms T new} => [|[s [O B]] p IH] //= [[O_ort QE] factors].
  by rewrite (query_rotated _ _ O_ort QE) IH.
have fit : fitting (rotated p) 1%:M.
  apply: thread_rotated; first by rewrite all_map.
    by elim: (p) norms => //= x l IH [? /IH].
  by elim: (p) factors => //= x l IH [[? _] /IH].
have := carry_run_last b E P U tokens fit (unitmx1 _ _) (normed_orthogonal scale (@orthogonal1 R d)).
rewrite /rotated thread_stages /carry_stack invmx1 mul1mx /unzip1 -map_comp => <-.
by [].
Qed.

(** The polar form.  A rotation makes [W] a multiple of the identity exactly if [W] is
    that multiple of an orthogonal matrix. *)
Theorem rms_spd scale b E P before s after U O S :
  let N := Stack E P (before ++ s :: after) U in
  each (@rms_stage R n d) (stages N) -> orthogonal O -> query s = O *m S -> S^T = S ->
  let new := query (nth s (stages (conjugate_stack O N)) (size before)) in
  [/\ new^T = new /\ (query s)^T *m query s = new *m new,
      forall tokens, run_last (normed scale) b (conjugate_stack O N) tokens = run_last (normed scale) b N tokens
    & forall c, (exists2 T, orthogonal T & invmx T *m query s = c%:M) <-> exists2 T, orthogonal T & query s = c *: T].
Proof.
move=> N norms O_ort QE S_sym new; have [newE same] := one_rotation scale b norms O_ort QE.
split=> [|//|c]; first by rewrite /new newE QE trmx_mul S_sym -!mulmxA (mulmxA O^T) orthogonal_tr // mul1mx.
split=> [[T T_ort TQ]|[T T_ort ->]]; exists T => //.
  by rewrite -[LHS](mulKVmx (orthogonal_unit T_ort)) TQ mul_mx_scalar.
by rewrite -scalemxAr mulVmx ?orthogonal_unit // scalemx1.
Qed.
End Rotated.
Print Assumptions rms_triangular.
Print Assumptions rms_triangular_layers.
Print Assumptions rms_spd.

(** ** Tied readouts: the basis has to be orthogonal, with or without norms *)

(** H1: the readout is [E^T].  H2: [E] has full column rank.  H3: [T] is orthogonal. *)
Theorem tied_readout_orthogonal (F : fieldType) n d v (E : 'M[F]_(v, d)) (P : 'M_(n, d)) ls (T : 'M_d) :
  row_full E ->
  T \in unitmx ->
  let N := Stack E P ls E^T in let new := conjugate_stack T N in
  (decode new = (embed new)^T <-> orthogonal T) /\
  (orthogonal T -> each (@no_norm F n d) ls ->
   (forall tokens, run_stack (Stack (embed new) (shift new) (stages new) (embed new)^T) tokens = run_stack N tokens) /\
   forall (s : stage F n d) B, query s = T *m B -> query (conjugate T s) = B).
Proof.
move=> E_full T_inv N new; have tie : decode new = (embed new)^T <-> orthogonal T.
  rewrite /= trmx_mul; split=> [same|T_ort]; last by rewrite orthogonal_inv.
  have /(row_full_inj E_full) TE : E *m (invmx T)^T = E *m T.
    by apply: trmx_inj; rewrite !trmx_mul trmxK.
  by rewrite /orthogonal; have <- : invmx T = T^T; [rewrite -[LHS]trmxK TE | rewrite mulmxV].
split=> // T_ort unnormed; split=> [tokens|s B QE]; last exact: query_rotated QE.
have {}tie := tie.2 T_ort; rewrite -(@network_conj _ _ _ _ _ _ N tokens T_inv unnormed) -/new.
by rewrite /run_stack /= -tie.
Qed.
Print Assumptions tied_readout_orthogonal.

(** ** LayerNorm

    [mean_free] takes the mean off every row; LayerNorm is RMSNorm behind it. *)
Section LayerNorms.
Variables (R : comUnitRingType) (n d : nat).
Implicit Types (s : stage R n d) (T : 'M[R]_d) (X : 'M[R]_(n, d)) (scale : 'M[R]_n -> 'M[R]_n).

Definition share : 'M[R]_1 := (d%:R^-1)%:M.
Definition mean_free : 'M[R]_d := 1%:M - (ones : 'cV_d) *m share *m ones^T.
Definition layer_normed scale X := normed scale (X *m mean_free).

Lemma ones_length : (ones : 'cV_d)^T *m ones = (d%:R)%:M :> 'M[R]_1.
Proof.
apply/matrixP=> i j; rewrite !ord1 !mxE eqxx mulr1n -[d in RHS]card_ord -sumr_const.
by apply: eq_bigr => k _; rewrite !mxE mulr1.
Qed.

Lemma mean_free_sym : mean_free^T = mean_free.
Proof. by rewrite linearB /= trmx1 !trmx_mul trmxK tr_scalar_mx mulmxA. Qed.

(** Rows times [mean_free] sum to zero. *)
Lemma mean_free_ones : d%:R \is a (@GRing.unit R) -> mean_free *m (ones : 'cV_d) = 0.
Proof.
move=> d_unit; rewrite mulmxBl mul1mx -!mulmxA ones_length /share -scalar_mxM mulVr // mulmx1 subrr.
by [].
Qed.

(** *** Centering

    What writes to the stream loses the means of its rows; the norms stay, without the mean that they took off. *)
Definition center s norm1 norm2 := let b := inner s in let a := attn b in
  Stage (Block (Attention (core a) (W_Q a) (W_K a) (W_V a) (W_O a *m mean_free))
               (act b) (W_up b) (W_down b *m mean_free) (attention_skip b) (mlp_skip b))
        (bias_Q s) (bias_K s) (bias_V s) (bias_O s *m mean_free) (bias_up s) (bias_down s *m mean_free)
        norm1 norm2 (parallel s).

Definition behind_mean (norm : 'M[R]_(n, d) -> 'M[R]_(n, d)) X := norm (X *m mean_free).

Lemma center_run s norm1 norm2 X :
  run_stage (center s norm1 norm2) (X *m mean_free)
  = run_stage (with_norms s (behind_mean norm1) (behind_mean norm2)) X *m mean_free.
Proof.
have attends Y : attend (center s norm1 norm2) (Y *m mean_free)
               = attend (with_norms s (behind_mean norm1) (behind_mean norm2)) Y *m mean_free.
  by rewrite /attend /mha_biased /= /behind_mean [RHS]mulmxDl !mulmxA.
have transforms Y : transform (center s norm1 norm2) (Y *m mean_free)
                  = transform (with_norms s (behind_mean norm1) (behind_mean norm2)) Y *m mean_free.
  by rewrite /transform /= /behind_mean [RHS]mulmxDl !mulmxA.
rewrite /run_stage attends transforms /=.
by case: (parallel s); case: (attention_skip (inner s)); case: (mlp_skip (inner s)); rewrite -?mulmxDl ?transforms -?mulmxDl.
Qed.

(** H1: every layer, and the readout, has LayerNorms.  H2: they have no gain and no
    bias.  Then every RMSNorm in their place computes the same, and any orthogonal
    basis after it. *)
Theorem layernorm_centring v w scale b (E : 'M_(v, d)) (P : 'M_(n, d))
    (ls : seq (stage R n d * (('M[R]_n -> 'M[R]_n) * ('M[R]_n -> 'M[R]_n)))) (U : 'M_(d, w)) T tokens :
  orthogonal T ->
  let old := Stack E P [seq with_norms x.1 (layer_normed x.2.1) (layer_normed x.2.2) | x <- ls] U in
  let new := Stack (E *m mean_free) (P *m mean_free) [seq center x.1 (normed x.2.1) (normed x.2.2) | x <- ls] U in
  [/\ run_stages (tokens *m embed new + shift new) (stages new)
       = run_stages (tokens *m embed old + shift old) (stages old) *m mean_free,
      run_last (normed scale) b new tokens = run_last (layer_normed scale) b old tokens
    & run_last (normed scale) b (conjugate_stack T new) tokens = run_last (layer_normed scale) b old tokens].
Proof.
move=> T_ort old new.
have states : run_stages (tokens *m embed new + shift new) (stages new)
       = run_stages (tokens *m embed old + shift old) (stages old) *m mean_free.
  rewrite /= mulmxA -mulmxDl; elim: ls (_ + P) {old new} => [|x ls IH] X //=.
  by rewrite center_run IH.
have same : run_last (normed scale) b new tokens = run_last (layer_normed scale) b old tokens.
  by rewrite /run_last states.
split=> //; rewrite -same; apply: rotate_run; [exact: orthogonal_unit | exact: normed_orthogonal |].
by rewrite /=; elim: (ls) => //= x l IH; split=> //; split; apply: normed_orthogonal.
Qed.

(** *** LayerNorm kept: rotations that fix the all-ones direction, up to its sign *)
Lemma mean_free_commutes T e : orthogonal T -> (ones : 'cV_d)^T *m T = e *: ones^T -> e ^+ 2 = 1 -> mean_free *m T = T *m mean_free.
Proof.
move=> T_ort fixed e_sign.
have fixed' : T *m ones = e *: (ones : 'cV[R]_d).
  have := congr1 (fun A => A *m T^T) fixed; rewrite -mulmxA T_ort mulmx1 -scalemxAl.
  move/(congr1 (fun A => e *: A^T)); rewrite !linearZ /= scalerA -expr2 e_sign scale1r trmx_mul !trmxK => <-.
  by [].
rewrite mulmxBl mul1mx mulmxBr mulmx1 -(mulmxA _ ones^T T) fixed 2!mulmxA fixed' -!scalemxAl -scalemxAr.
by [].
Qed.

(** H1: [T] is orthogonal.  H2: it maps the all-ones row to itself or its opposite. *)
Theorem layernorm_fixes_ones v w scale b (E : 'M_(v, d)) (P : 'M_(n, d))
    (ls : seq (stage R n d * (('M[R]_n -> 'M[R]_n) * ('M[R]_n -> 'M[R]_n)))) (U : 'M_(d, w)) T e tokens :
  orthogonal T ->
  (ones : 'cV_d)^T *m T = e *: ones^T -> e ^+ 2 = 1 ->
  let N := Stack E P [seq with_norms x.1 (layer_normed x.2.1) (layer_normed x.2.2) | x <- ls] U in
  (forall scale X, layer_normed scale (X *m T) = layer_normed scale X *m T) /\
  run_last (layer_normed scale) b (conjugate_stack T N) tokens = run_last (layer_normed scale) b N tokens.
Proof.
move=> T_ort fixed e_sign N.
have comm scale' : commutes (layer_normed scale') T.
  move=> X; rewrite /layer_normed -mulmxA -(mean_free_commutes T_ort fixed e_sign) mulmxA.
  exact: normed_orthogonal.
split=> //; apply: rotate_run; [exact: orthogonal_unit | exact: comm |].
by rewrite /N /=; elim: (ls) => //= x l IH.
Qed.
End LayerNorms.
Print Assumptions mean_free_ones.
Print Assumptions layernorm_centring.
Print Assumptions layernorm_fixes_ones.

(** ** The freedom of the heads on top: identity blocks on the diagonal *)
Section Blocks.
Variables (R : comUnitRingType) (n H : nat) (p : 'I_H -> nat).
Local Notation d := (\sum_h p h)%N.
Implicit Types (T O B : 'M[R]_d).

Definition own T h : 'M_(p h) := submxblock T h h.
Definition block_triangular T := forall h k : 'I_H, (k < h)%N -> submxblock T h k = 0.

Lemma mul_own T (D : forall h, 'M[R]_(p h)) h k : submxblock (T *m \mxdiag_h D h) h k = submxblock T h k *m D k.
Proof. by rewrite -{1}[T]submxblockK mul_mxblock_mxdiag mxblockK. Qed.

(** What is left of a block triangle if every head takes the inverse of its own block. *)
Definition unit_part T := T *m \mxdiag_h invmx (own T h).

Lemma unit_part_split T : (forall h, own T h \in unitmx) -> block_triangular T ->
  [/\ T = unit_part T *m \mxdiag_h own T h, block_triangular (unit_part T) & forall h, own (unit_part T) h = 1%:M].
Proof.
move=> inv tri; split=> [|h k hk|h].
- by apply/mxblockP=> h k; rewrite !mul_own mulmxKV.
- by rewrite mul_own tri // mul0mx.
by rewrite [LHS]mul_own; apply: mulmxV; apply: inv.
Qed.

Lemma aligned_normed W (l : headed R n p) f g X :
  run_stage (with_norms (aligned W l) f g) X = run_stage (with_norms (original W l) f g) X.
Proof.
suff same Y : attend (with_norms (aligned W l) f g) Y = attend (with_norms (original W l) f g) Y.
  by rewrite /run_stage !same.
exact: align_heads_run.
Qed.

(** H1: every norm is an RMSNorm without gain.  H2: from queries and keys only the
    scores of the heads are used, as in every [headed] layer.  H3: the diagonal blocks
    of [T] are invertible.  The query projection of the layer is [O *m T]. *)
Theorem rms_block_triangular v w scale b (E : 'M_(v, d)) (P : 'M_(n, d)) before (l : headed R n p) f g after
    (U : 'M_(d, w)) O T :
  each (@rms_stage R n d) (before ++ after) ->
  orthogonal O -> block_triangular T -> (forall h, own T h \in unitmx) -> (forall h, space l h = own T h) ->
  let W := O *m unit_part T in
  let layer make := with_norms (make W l : stage R n d) (normed f) (normed g) in
  let N make := Stack E P (before ++ layer make :: after) U in
  let new := conjugate_stack O (N (@aligned R n H p)) in
  let B := query (nth (layer (@aligned R n H p)) (stages new) (size before)) in
  [/\ query (layer (@original R n H p)) = O *m T,
      block_triangular B, forall h, own B h = 1%:M
    & forall tokens, run_last (normed scale) b new tokens = run_last (normed scale) b (N (@original R n H p)) tokens].
Proof.
move=> norms O_ort tri inv spaces W layer N new B; have [TE tri' ones'] := unit_part_split inv tri.
have QE : query (layer (@aligned R n H p)) = O *m unit_part T by rewrite /query /= /square conform_mx_id.
have all_norms : each (@rms_stage R n d) (stages (N (@aligned R n H p))).
  rewrite /N /=; elim: (before) norms => [|s ls IH] /=; first by split=> //; exists f, g.
  by case=> ? /IH.
have [BE same] := one_rotation scale b all_norms O_ort QE.
have {}BE : B = unit_part T.
  by rewrite -BE /B /=; congr query; apply: set_nth_default; rewrite size_map size_cat /= addnS ltnS leq_addr.
split.
- rewrite /query /= /square conform_mx_id /W -mulmxA [in RHS]TE; congr (_ *m (_ *m _)).
  by apply: eq_mxdiag => h; rewrite spaces.
- by rewrite BE; exact: tri'.
- by move=> h; rewrite BE; exact: ones'.
move=> tokens; rewrite same /run_last [stages _]/= [in RHS]/=; congr (normed scale _ *m U + _).
elim: (before) (_ + P) => [|s ls IH] X; last exact: IH.
by rewrite /= aligned_normed.
Qed.
End Blocks.
Print Assumptions rms_block_triangular.

(** ** Post-norm: a gain that no weight reads stays in the way *)
Section PostNorm.
Variables (R : rcfType) (d : nat).
Implicit Types (h g : 'rV[R]_d.+1) (T : 'M[R]_d.+1) (eps : R).

(** What the norm makes of all rows tells matrices apart. *)
Lemma rms_separates eps (A B : 'M[R]_d.+1) : 0 <= eps -> (forall h, rms eps h *m A = rms eps h *m B) -> A = B.
Proof.
move=> eps_ge0 same; apply/row_matrixP=> i; rewrite !rowE; have := same (delta_mx 0 i).
have gt0 : 0 < rms_scale d eps (squared (delta_mx 0 i : 'rV[R]_d.+1)).
  rewrite rms_scale_gt0 // ltr_spaddl // divr_gt0 ?ltr0Sn // lt_def squared_ge0 squared_eq0 andbT.
  by apply/negP=> /eqP/rowP/(_ i)/eqP; rewrite !mxE !eqxx oner_eq0.
by rewrite rms_row -!scalemxAl => /(scalerI (lt0r_neq0 gt0)).
Qed.

(** A block [h -> N (h + f h) * g] in the basis [T], with the gain [g'] there. *)
Definition post_norm eps (f : 'rV[R]_d.+1 -> 'rV[R]_d.+1) g h := rms eps (h + f h) *m diag_mx g.

(** H1: the gain stands behind the norm and in front of the stream.  H2: [T] is orthogonal. *)
Theorem post_norm_gain eps g T : 0 <= eps -> orthogonal T ->
  [/\ forall g', (forall f f' h, f' (h *m T) = f h *m T -> post_norm eps f' g' (h *m T) = post_norm eps f g h *m T)
        <-> T *m diag_mx g' = diag_mx g *m T,
      g = const_mx 1 -> T *m diag_mx g = diag_mx g *m T
    & injective (g 0) -> forall g', T *m diag_mx g' = diag_mx g *m T ->
        forall i k j, T i j != 0 -> T k j != 0 -> i = k].
Proof.
move=> eps_ge0 T_ort; split=> [g'||g_inj g' /matrixP same i k j Tij Tkj].
- split=> [same|comm f f' h ff']; last first.
    by rewrite /post_norm ff' -mulmxDl /rms normed_orthogonal // -!mulmxA comm.
  apply: (rms_separates eps_ge0) => h; have := same (fun=> 0) (fun=> 0) h.
  by rewrite mul0mx /post_norm !addr0 /rms normed_orthogonal // !mulmxA => /(_ erefl).
- by move=> ->; rewrite diag_const_mx mul_scalar_mx mul_mx_scalar.
apply: g_inj; have gain l : T l j != 0 -> g 0 l = g' 0 j.
  by move=> Tlj; apply: (mulIf Tlj); have := same l j; rewrite mul_mx_diag mul_diag_mx !mxE mulrC => ->.
by rewrite !gain.
Qed.
End PostNorm.
Print Assumptions post_norm_gain.

(** ** Grouped keys and values *)

(** H1: fewer key heads than query heads.  H2: the heads of the queries are as wide as the stream together. *)
Theorem gqa_kv_stop (F : fieldType) d H G p (W : 'M[F]_(d, G.+1 * p.+1)) :
  (G.+1 < H)%N ->
  (H * p.+1 = d)%N ->
  (forall T : 'M_d, (\rank (invmx T *m W) < d)%N /\ ~ exists B, invmx T *m W *m B = 1%:M) /\
  exists W_V : 'M[F]_(d, G.+1 * p.+1), ~ exists B, W_V = W *m B.
Proof.
move=> fewer width; have narrow : (G.+1 * p.+1 < d)%N by rewrite -width ltn_pmul2r.
have rank_lt m (A : 'M[F]_(m, _)) : (\rank (A *m W) < d)%N.
  exact: leq_ltn_trans (leq_trans (mxrankM_maxr A W) (rank_leq_col W)) narrow.
have no_one m (A : 'M[F]_(d, m)) (C : 'M_(m, d)) : (\rank A < d)%N -> A *m C <> 1%:M.
  move=> rank_A AC; have := leq_ltn_trans (mxrankM_maxl A C) rank_A.
  by rewrite AC mxrank1 ltnn.
split=> [T|]; first by split=> [|[B]]; [exact: rank_lt | exact: no_one].
have : ~~ ((1%:M : 'M[F]_d) <= W^T)%MS.
  apply/negP=> /submxP[D DW]; apply: (no_one _ W D^T); first by rewrite -[W]mul1mx.
  by apply: trmx_inj; rewrite trmx_mul trmxK -DW trmx1.
case/row_subPn=> i; rewrite rowE mulmx1 => outside.
pose j : 'I_(G.+1 * p.+1) := Ordinal (ltn0Sn _); exists (delta_mx i j) => -[B WB].
case/negP: outside; apply/submxP; exists (col j B)^T.
by rewrite -trmx_mul colE mulmxA -WB mul_delta_mx trmx_delta.
Qed.
Print Assumptions gqa_kv_stop.

(** ** A singular query projection that no basis removes

    Two tokens, width 2, two heads of width one; [WK] and [WV] are the identity, and
    both columns of [WQ] are (1 0)^T.  [phi] plays the exponential. *)
Section Singular.
Variables (R : numFieldType) (phi : R -> R).
Hypothesis phi_gt0 : forall s, 0 < phi s.
Hypothesis phi_inj : injective phi.
Implicit Types (Q K V : 'M[R]_2).

Definition head_scores Q K h : 'M[R]_2 := \matrix_(i, j) (Q i h * K j h).
Definition two_heads Q K V : 'M[R]_2 := \matrix_(i, h) \sum_j softmax phi (head_scores Q K h) i j * V j h.

Lemma sum2 (F : 'I_2 -> R) : \sum_j F j = F 0 + F 1.
Proof. by rewrite !big_ord_recl big_ord0 addr0; congr (_ + F _); apply/val_inj. Qed.

Lemma mul2 m (X : 'M[R]_(m, 2)) p (W : 'M_(2, p)) i h : (X *m W) i h = X i 0 * W 0 h + X i 1 * W 1 h.
Proof. by rewrite mxE sum2. Qed.

Lemma ord2P (i : 'I_2) : i = 0 \/ i = 1.
Proof. by case: i => [[|[|//]] ?]; [left | right]; apply/val_inj. Qed.

Lemma map_sum (S : 'M[R]_2) i : softmax phi S i 0 + softmax phi S i 1 = 1.
Proof.
by have /colP/(_ i) := softmax_rows phi_gt0 S; rewrite mxE sum2 !mxE !mulr1.
Qed.

(** Equal values: the head returns that value, whatever the map is. *)
Lemma heads_const Q K V i h : V 0 h = V 1 h -> two_heads Q K V i h = V 0 h.
Proof. by move=> V01; rewrite mxE sum2 -V01 -mulrDl map_sum mul1r. Qed.

(** Different values: the output tells whether the map is uniform. *)
Lemma uniform_visible Q K Q' K' V h : V 0 h != V 1 h -> two_heads Q K V 0 h = two_heads Q' K' V 0 h ->
  Q 0 h * K 0 h = Q 0 h * K 1 h -> Q' 0 h * K' 0 h = Q' 0 h * K' 1 h.
Proof.
move=> V01 same uniform.
have out A B : two_heads A B V 0 h = V 1 h + softmax phi (head_scores A B h) 0 0 * (V 0 h - V 1 h).
  have sum1 : softmax phi (head_scores A B h) 0 1 = 1 - softmax phi (head_scores A B h) 0 0.
    by apply/eqP; rewrite eq_sym subr_eq addrC map_sum.
  by rewrite mxE sum2 sum1 mulrBl mul1r mulrBr addrCA.
move: same; rewrite !out => /addrI/mulIf; rewrite subr_eq0 => /(_ V01).
have Z_neq0' M i : Z phi M i != 0 := Z_neq0 phi_gt0 M i.
rewrite !mxE => /eqP; rewrite eqr_div //.
rewrite /Z !sum2 !mxE uniform !mulrDr [X in X + _ == _]mulrC => /eqP/addrI.
by rewrite [RHS]mulrC => /mulfI E; apply/phi_inj/esym/E; rewrite gt_eqF.
Qed.

Definition both_first : 'M[R]_2 := \matrix_(i, j) (i == 0)%:R.

(** H1: [two_heads].  H2: [both_first].  H3: [phi].  H4: all inputs [X] of two tokens. *)
Theorem singular_wq_counterexample : ~ exists T WK WV, forall X : 'M[R]_2,
  two_heads (X *m both_first) (X *m 1%:M) (X *m 1%:M) = two_heads (X *m T *m 1%:M) (X *m T *m WK) (X *m T *m WV).
Proof.
case=> T [WK [WV same]]; pose K := T *m WK.
have {}same X : two_heads (X *m both_first) X X = two_heads (X *m T) (X *m K) (X *m (T *m WV)).
  by have := same X; rewrite !mulmx1 /K !mulmxA.
(* equal tokens: attention returns the value, so T is invertible *)
have TV : T *m WV = 1%:M.
  apply/matrixP=> i h; pose X : 'M[R]_2 := \matrix_(_, k) (k == i)%:R.
  have XW (W : 'M_2) j : (X *m W) j h = W i h.
    by rewrite mul2 !mxE; case: (ord2P i) => ->; rewrite /= !(mul0r, mul1r) ?addr0 ?add0r.
  have := congr1 (fun M : 'M_2 => M 0 h) (same X).
  rewrite !heads_const; try by rewrite ?XW // !mxE.
  by rewrite XW !mxE [h == i]eq_sym => <-.
have {}same X h : two_heads (X *m both_first) X X 0 h = two_heads (X *m T) (X *m K) X 0 h.
  by rewrite same TV mulmx1.
clearbody K.
(* no column of K vanishes: that head would always be uniform *)
have K_neq0 h : ~ (K 0 h = 0 /\ K 1 h = 0).
  case=> K0 K1; have := uniform_visible _ (esym (same both_first h)).
  rewrite !mul2 K0 K1 !mxE /= !(mulr0, mulr1, addr0) => /(_ (oner_neq0 _) erefl)/eqP.
  by rewrite oner_eq0.
(* the token (0 1) has zero query, hence a uniform map: so T 1 h = 0 *)
have T1 h : T 1 h = 0.
  apply/eqP/negPn/negP=> T1h; apply: (K_neq0 h).
  have flat (delta : 'rV[R]_2) : delta 0 h != 0 -> (delta *m K) 0 h = 0.
    move=> dh; pose X : 'M[R]_2 := \matrix_(i, k) ((k == 1)%:R - (i == 1)%:R * delta 0 k).
    have XW (W : 'M_2) i : (X *m W) i h = W 1 h - (i == 1)%:R * (delta *m W) 0 h.
      by rewrite !mul2 !mxE /= sub0r mulNr mulrBl mul1r addrCA -opprD -!mulrA -mulrDr.
    have := uniform_visible _ (same X h).
    rewrite !XW !mxE /= !(mul0r, mul1r, subr0) => /(_ _ erefl)/(mulfI T1h).
    have hh : (h == 1)%:R != (h == 1)%:R - delta 0 h.
      by rewrite eq_sym -subr_eq0 addrAC subrr sub0r oppr_eq0.
    by move=> /(_ hh)/eqP; rewrite eq_sym -subr_eq0 addrAC subrr sub0r oppr_eq0 => /eqP.
  have Khh : K h h = 0 by rewrite -(flat (delta_mx 0 h)) -?rowE !mxE ?eqxx ?oner_neq0.
  have : K 0 h + K 1 h = 0.
    by rewrite -(flat (const_mx 1)) ?mul2 !mxE ?oner_neq0 // !mul1r.
  by case: (ord2P h) Khh => -> ->; rewrite ?addr0 ?add0r.
(* so T is not invertible *)
have := congr1 (fun M : 'M_2 => M 1 1) TV; rewrite mul2 !T1 !mul0r addr0 mxE /=.
by move/esym/eqP; rewrite oner_eq0.
Qed.
End Singular.
Print Assumptions singular_wq_counterexample.
