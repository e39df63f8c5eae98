(** * Degrees of freedom

    What may change in the weights while the function stays: the bases of the
    heads and those of the stream; and which numbers do not survive this. *)
From mathcomp Require Import all_ssreflect all_algebra.
From QKV Require Import ThreeProducts Reparametrization Skipless QueriesEqualKeys.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import Order.TTheory GRing.Theory Num.Theory.
Local Open Scope ring_scope.

(** ** The freedom of a head

    [G h] moves between the queries and the keys of head [h], [J h] between its
    values and outputs; a bias moves with its matrix. *)
Section HeadGauge.
Variables (R : comUnitRingType) (n d p v dout H : nat) (A : 'I_H -> 'M[R]_n -> 'M[R]_n).

Definition many_heads (WQ WK : 'I_H -> 'M[R]_(d, p)) (WV : 'I_H -> 'M_(d, v)) (WO : 'I_H -> 'M_(v, dout))
    (bQ bK : 'I_H -> 'rV_p) (bV : 'I_H -> 'rV_v) (bO : 'rV_dout) X :=
  \sum_h A h ((X *m WQ h + ones *m bQ h) *m (X *m WK h + ones *m bK h)^T)
    *m (X *m WV h + ones *m bV h) *m WO h + ones *m bO.

Theorem head_gauge WQ WK WV WO bQ bK bV bO (G : 'I_H -> 'M[R]_p) (J : 'I_H -> 'M_v) X :
  (forall h, G h \in unitmx) -> (forall h, J h \in unitmx) ->
  many_heads (fun h => WQ h *m G h) (fun h => WK h *m (invmx (G h))^T) (fun h => WV h *m J h)
    (fun h => invmx (J h) *m WO h) (fun h => bQ h *m G h) (fun h => bK h *m (invmx (G h))^T) (fun h => bV h *m J h) bO X
  = many_heads WQ WK WV WO bQ bK bV bO X.
Proof.
move=> G_inv J_inv; congr (_ + _); apply: eq_bigr => h _; rewrite !mulmxA -!mulmxDl trmx_mul trmxK.
by rewrite !mulmxA !mulmxK.
Qed.

(** The same for one head, as the sublayer that is rewritten. *)
Definition turn_heads (a : attention R n n d d p p v v dout) (G : 'M_p) (J : 'M_v) :=
  Attention (core a) (W_Q a *m G) (W_K a *m (invmx G)^T) (W_V a *m J) (invmx J *m W_O a).

Theorem turn_heads_run (B : 'M[R]_n -> 'M[R]_n) WQ WK WV WO bQ bK bV bO G J X : G \in unitmx -> J \in unitmx ->
  let a := Attention (@single_head _ _ B p v) WQ WK WV WO : attention R n n d d p p v v dout in
  mha_biased (turn_heads a G J) (bQ *m G) (bK *m (invmx G)^T) (bV *m J) bO X = mha_biased a bQ bK bV bO X.
Proof.
move=> G_inv J_inv; rewrite /mha_biased /= /single_head !mulmxA -!mulmxDl trmx_mul trmxK.
by rewrite !mulmxA !mulmxK.
Qed.
End HeadGauge.
Print Assumptions head_gauge.
Print Assumptions turn_heads_run.

(** The score matrix and the value matrix of a head of full rank fix its weights
    up to this freedom. *)
Theorem head_gauge_only (F : fieldType) d p dout (WQ WK WQ' WK' : 'M[F]_(d, p)) (WV WV' : 'M[F]_(d, p))
    (WO WO' : 'M[F]_(p, dout)) :
  row_full WQ -> row_full WK -> row_full WV -> row_free WO ->
  WQ' *m WK'^T = WQ *m WK^T -> WV' *m WO' = WV *m WO ->
  exists G J : 'M_p, [/\ G \in unitmx /\ J \in unitmx,
    WQ' = WQ *m G /\ WK' = WK *m (invmx G)^T & WV' = WV *m J /\ WO' = invmx J *m WO].
Proof.
have factors e (A A' : 'M[F]_(d, p)) (B B' : 'M[F]_(p, e)) : row_full A -> row_free B -> A' *m B' = A *m B ->
    exists2 G : 'M_p, G \in unitmx & A' = A *m G /\ B' = invmx G *m B.
  case/row_fullP=> L LA /row_freeP[P BP] same; have left_inverse : (L *m A') *m (B' *m P) = 1%:M.
    by rewrite mulmxA -(mulmxA L A') same !mulmxA LA mul1mx BP.
  have [G_inv P_inv] := mulmx1_unit left_inverse; exists (L *m A') => //.
  split; last by apply: (can_inj (mulKmx G_inv)); rewrite mulKVmx // -mulmxA same mulmxA LA mul1mx.
  by apply: (can_inj (mulmxK P_inv)); rewrite -[RHS]mulmxA left_inverse mulmx1 mulmxA same -mulmxA BP mulmx1.
move=> Q_full K_full V_full O_free scores values.
have K_free : row_free WK^T by rewrite /row_free mxrank_tr; exact: K_full.
have [G G_inv [QE KE]] := factors _ _ _ _ _ Q_full K_free scores.
have [J J_inv [VE OE]] := factors _ _ _ _ _ V_full O_free values.
by exists G, J; split=> //; split=> //; rewrite -[WK']trmxK KE trmx_mul trmxK.
Qed.
Print Assumptions head_gauge_only.

(** ** The bases of the stream

    [p] gives every state a basis; [fitting] says that they are invertible, and
    that states joined by a skip share one.  Changes of basis compose, and they
    commute with those inside the heads, whatever the core does, RoPE included. *)
Section StreamGauge.
Variables (R : comUnitRingType) (n d : nat).

Lemma heads_commute dq dk dv e (a : attention R n n d d dq dk dv e d) (T T' : 'M_d) (G : 'M_dq) (L : 'M_dk) (J : 'M_dv) (K : 'M_e) :
  let moved (a : attention R n n d d dq dk dv e d) :=
    Attention (core a) (invmx T *m W_Q a) (invmx T *m W_K a) (invmx T *m W_V a) (W_O a *m T') in
  let turned (a : attention R n n d d dq dk dv e d) :=
    Attention (core a) (W_Q a *m G) (W_K a *m L) (W_V a *m J) (K *m W_O a) in
  moved (turned a) = turned (moved a).
Proof. by rewrite /= !mulmxA. Qed.

Definition sharing (s : stage R n d) (enter middle leave : 'M[R]_d) := enter \in unitmx /\
  if parallel s then attention_skip (inner s) -> leave = enter
  else [/\ middle \in unitmx, attention_skip (inner s) -> middle = enter & mlp_skip (inner s) -> leave = middle].

Fixpoint all_sharing (p : plan R n d) last :=
  if p is (s, (enter, middle)) :: rest then sharing s enter middle (entering rest last) /\ all_sharing rest last else True.

Lemma sharing_fits p last : each (fun sb => no_norm sb.1) p -> all_sharing p last -> fitting p last.
Proof.
elim: p => [|[s [enter middle]] p IH] //= [unnormed unnormeds] [[enter_inv shared] rest]; split; last exact: IH.
have [norm1 _] := no_norm_commutes enter unnormed; split=> //.
case: (parallel s) shared => [shared|[middle_inv shared1 shared2]]; first by split=> //; case: (no_norm_commutes enter unnormed).
by split=> //; case: (no_norm_commutes middle unnormed).
Qed.

(** The function stays; and if the ends are wide enough, other bases at the ends are other weights. *)
Theorem stream_gauge v w (E : 'M[R]_(v, d)) P p last (U : 'M_(d, w)) :
  each (fun sb => no_norm sb.1) p -> all_sharing p last -> last \in unitmx ->
  (forall tokens, run_stack (carry_stack E P p last U) tokens = run_stack (Stack E P (unzip1 p) U) tokens) /\
  forall (L : 'M_(d, v)) (K : 'M_(w, d)) p' last', L *m E = 1%:M -> U *m K = 1%:M -> last' \in unitmx ->
    carry_stack E P p last U = carry_stack E P p' last' U -> entering p last = entering p' last' /\ last = last'.
Proof.
move=> unnormed shared last_inv; split=> [tokens|L K p' last' LE UK last'_inv same].
  by apply: carry_stack_run => //; apply: sharing_fits.
split.
  by have := congr1 (fun N => L *m embed N) same; rewrite /= !mulmxA LE !mul1mx.
have := congr1 (fun N => decode N *m K) same; rewrite /= -!mulmxA UK !mulmx1 => back.
by rewrite -[last]invmxK back invmxK.
Qed.
End StreamGauge.
Print Assumptions heads_commute.
Print Assumptions stream_gauge.

(** ** RoPE and the basis of a head

    A head keeps its scores at an offset, for all weights, exactly if its basis
    commutes with the rotation at that offset.  [cosine i] and [sine i] turn plane
    [i]; with angles strictly between 0 and a half turn, other angles have other
    cosines. *)
Section RopeCommutant.
Variables (F : realFieldType) (k : nat) (cosine sine : 'I_k -> F).

Definition quarter : 'M[F]_2 := \matrix_(i, j) (if i == j then 0 else if i == 0 then 1 else -1).
Definition turn i : 'M[F]_2 := (cosine i)%:M + sine i *: quarter.
Definition rotation := \mxdiag_i turn i.

Lemma sum_two (f : 'I_2 -> F) : \sum_i f i = f 0 + f 1.
Proof. by rewrite big_ord_recl big_ord1; congr (_ + f _); apply: val_inj. Qed.

Lemma one_of_two (i : 'I_2) : i = 0 \/ i = 1.
Proof. by case: i => [[|[|//]] ?]; [left | right]; apply: val_inj. Qed.

Lemma quarter_square : quarter *m quarter = - 1%:M.
Proof.
apply/matrixP=> i j; rewrite mxE sum_two !mxE.
by case: (one_of_two i) => ->; case: (one_of_two j) => ->;
   rewrite /= ?(mul0r, mulr0, mul1r, mulr1, addr0, add0r, mulrN1, oppr0, mulr0n, mulr1n).
Qed.

Lemma quarter_commutes (G : 'M_2) : quarter *m G = G *m quarter <-> exists a b, G = a%:M + b *: quarter.
Proof.
split=> [same|[a [b ->]]]; last by rewrite mulmxDl mulmxDr -scalemxAl -scalemxAr scalar_mxC.
have at_entry i j := congr1 (fun M : 'M_2 => M i j) same; exists (G 0 0), (G 0 1).
move: (at_entry 0 0) (at_entry 0 1); rewrite !mxE !sum_two !mxE /= !(mul0r, mulr0, mul1r, mulr1, add0r, addr0) mulrN1.
move=> G10 G11; apply/matrixP=> i j; rewrite !mxE.
by case: (one_of_two i) => ->; case: (one_of_two j) => ->;
   rewrite /= ?(G10, G11, mulr0, mulr1, addr0, add0r, mulrN1, mulr0n, mulr1n).
Qed.

Hypothesis on_circle : forall i, cosine i ^+ 2 + sine i ^+ 2 = 1.

Lemma turn_square i : turn i *m turn i = (cosine i *+ 2) *: turn i - 1%:M.
Proof.
have -> : turn i *m turn i = cosine i *: turn i + sine i *: (quarter *m turn i).
  by rewrite {1}/turn mulmxDl mul_scalar_mx -scalemxAl.
have -> : quarter *m turn i = cosine i *: quarter - (sine i)%:M.
  by rewrite mulmxDr mul_mx_scalar -scalemxAr quarter_square scalerN scalemx1.
rewrite mulr2n scalerDl -addrA; congr (_ + _).
have one_split : 1%:M = (cosine i * cosine i)%:M + (sine i * sine i)%:M :> 'M[F]_2 by rewrite -raddfD /= -!expr2 on_circle.
rewrite one_split /turn !scalerDr scalerN !scalerA !scale_scalar_mx [sine i * cosine i]mulrC.
by rewrite opprD [RHS]addrACA subrr add0r.
Qed.

(** Blocks between planes of other frequencies vanish. *)
Lemma planes_apart i j (G : 'M_2) : cosine i != cosine j -> turn i *m G = G *m turn j -> G = 0.
Proof.
move=> apart same; have square : (turn i *m turn i) *m G = G *m (turn j *m turn j) by rewrite -mulmxA same !mulmxA same.
have TG : turn i *m G = 0.
  move: square; rewrite !turn_square mulmxBl mulmxBr mul1mx mulmx1 -scalemxAl -scalemxAr -same => /addIr/eqP.
  rewrite -subr_eq0 -scalerBl scalemx_eq0 -mulrnBl mulrn_eq0 subr_eq0 (negbTE apart) => /eqP.
  by [].
by have := congr1 (mulmx (turn i)) TG; rewrite mulmxA turn_square mulmxBl -scalemxAl TG scaler0 mul1mx mulmx0 sub0r => /eqP; rewrite oppr_eq0 => /eqP.
Qed.

(** (a) What leaves the scores of all weights alone.  (b) What commutes with all planes. *)
Theorem rope_commutant :
  (forall p (R G : 'M[F]_p), G \in unitmx ->
     (forall d (WQ WK : 'M_(d, p)), (WQ *m G) *m R *m (WK *m (invmx G)^T)^T = WQ *m R *m WK^T) <-> G *m R = R *m G) /\
  ((forall i, sine i != 0) -> (forall i j, i != j -> cosine i != cosine j) ->
   forall G : 'I_k -> 'I_k -> 'M[F]_2,
     rotation *m (\mxblock_(i, j) G i j) = (\mxblock_(i, j) G i j) *m rotation <->
     exists a b, forall i j, G i j = if i == j then (a i)%:M + b i *: quarter else 0).
Proof.
split=> [p R G G_inv|sine_neq0 apart G].
  split=> [/(_ p 1%:M 1%:M)|same d WQ WK]; last first.
    by rewrite trmx_mul trmxK -!mulmxA (mulmxA G) same !mulmxA mulmxK.
  by rewrite !mul1mx trmxK trmx1 mulmx1 => /(congr1 (mulmx^~ G)); rewrite mulmxKV.
rewrite mul_mxdiag_mxblock mul_mxblock_mxdiag -eq_mxblockP.
split=> [same|[a [b GE]] i j].
  have [ab abE] : exists ab : 'I_k -> F * F, forall i, G i i = (ab i).1%:M + (ab i).2 *: quarter.
    apply: (@fin_all_exists _ (fun=> (F * F)%type) (fun i ab => G i i = ab.1%:M + ab.2 *: quarter)) => i.
    have := same i i; rewrite /turn mulmxDl mulmxDr scalar_mxC => /addrI.
    rewrite -scalemxAl -scalemxAr => /(scalerI (sine_neq0 i))/quarter_commutes[a [b E]].
    by exists (a, b).
  exists (fun i => (ab i).1), (fun i => (ab i).2) => i j; case: eqVneq => [<-|ij]; first exact: abE.
  exact: planes_apart (apart i j ij) (same i j).
rewrite GE; case: eqVneq => [<-|_]; last by rewrite mulmx0 mul0mx.
have commutes_turn : quarter *m turn i = turn i *m quarter by rewrite mulmxDl mulmxDr -scalemxAl -scalemxAr scalar_mxC.
by rewrite mulmxDl mulmxDr -scalemxAl -scalemxAr commutes_turn scalar_mxC.
Qed.
End RopeCommutant.
Print Assumptions rope_commutant.

(** ** Numbers that depend on the basis of a head

    What a gauge [G] between queries and keys, and [J] between values and
    outputs, leaves: score matrix and value matrix, and the column spaces of
    keys and values, hence the angles between these.  The sign of the inner
    product of keys and values is not left; nor are, if the keys have full rank,
    the inner products among them, unless [G] is orthogonal. *)
Definition dot (R : ringType) m p (K V : 'M[R]_(m, p)) := \tr (K *m V^T).

Theorem gauge_dependent_numbers (F : realFieldType) n d p dout (WQ WK WV : 'M[F]_(d, p)) (WO : 'M_(p, dout))
    (X : 'M_(n, d)) (G J : 'M_p) : G \in unitmx -> J \in unitmx ->
  let K := X *m WK in let V := X *m WV in let K' := fun G => X *m (WK *m (invmx G)^T) in
  [/\ (WQ *m G) *m (WK *m (invmx G)^T)^T = WQ *m WK^T /\ (WV *m J) *m (invmx J *m WO) = WV *m WO,
      ((WK *m (invmx G)^T)^T :=: WK^T)%MS /\ ((WV *m J)^T :=: WV^T)%MS,
      dot (K' (- 1%:M)) V = - dot K V /\ dot (K' (- 1%:M)) (K' (- 1%:M)) = dot K K
    & row_full K -> gram (K' G) = gram K <-> G^T *m G = 1%:M].
Proof.
move=> G_inv J_inv K V K'; have flip : K' (- 1%:M) = - K.
  rewrite /K'; have -> : invmx (- 1%:M) = - 1%:M :> 'M[F]_p.
    by rewrite -scaleN1r invmxZ ?unitmxZ ?unitmx1 ?unitrN1 // invmx1 invrN1.
  by rewrite linearN /= trmx1 !mulmxN mulmx1.
split.
- by rewrite trmx_mul trmxK !mulmxA !mulmxK.
- rewrite !trmx_mul trmxK; split; apply: eqmxMfull; rewrite row_full_unit ?unitmx_inv //.
  by rewrite unitmx_tr.
- by rewrite flip /dot; split; rewrite mulNmx linearN //= [(- K)^T]linearN /= mulmxN linearN opprK.
case/row_fullP=> L LK; have gramE' : gram (K' G) = K *m ((invmx G)^T *m invmx G) *m K^T.
  by rewrite /gram /K' !trmx_mul trmxK !mulmxA.
have inverse : (invmx G)^T *m invmx G = 1%:M <-> G^T *m G = 1%:M.
  have GK : G^T *m ((invmx G)^T *m invmx G) *m G = 1%:M by rewrite !mulmxA mulmxKV // -trmx_mul mulVmx // trmx1.
  split=> [same|orthogonal]; first by rewrite -GK same mulmx1.
  by rewrite trmx_inv -[invmx G]mul1mx -orthogonal mulmxK // mulVmx // unitmx_tr.
rewrite -inverse gramE'; split=> [|->]; last by rewrite mulmx1.
move: (K) LK => {gramE'} keys LK /(congr1 (fun S => L *m S *m L^T)); move: (_ *m invmx G) => M.
have KL : keys^T *m L^T = 1%:M by rewrite -trmx_mul LK trmx1.
by rewrite /gram !mulmxA LK !mul1mx -!mulmxA KL mulmx1.
Qed.
Print Assumptions gauge_dependent_numbers.
