(** * Layers that share their query projection

    With every skip one basis is left.  If the layers have the same [WQ], it is
    the right one for all of them. *)
From mathcomp Require Import all_ssreflect all_algebra.
From QKV Require Import ThreeProducts Reparametrization Skipless EverySkip.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory.
Local Open Scope ring_scope.

(** ** The same [WQ] in all layers

    H1: no norms.  H2: every [WQ] is the same invertible [W].  H3: the readout is a
    matrix of its own.  The skips are arbitrary, and so is everything else. *)
Section Shared.
Variables (R : comUnitRingType) (n d v w : nat).
Implicit Types N : stack R n d v w.

Theorem shared_wq_elimination N (W : 'M[R]_d) :
  each (@no_norm R n d) (stages N) ->
  all (fun s => query s == W) (stages N) -> W \in unitmx ->
  all (fun s => query s == 1%:M) (stages (conjugate_stack W N)) /\
  forall tokens, run_stack (conjugate_stack W N) tokens = run_stack N tokens.
Proof.
move=> unnormed shared W_inv; split=> [|tokens]; last exact: network_conj.
rewrite all_map; apply: sub_all shared => s /eqP sW.
by rewrite /= /conjugate -sW {1}/query projection_becomes_one ?[projection _ _]sW.
Qed.

(** Blocks that are shared whole stay shared: equal layers become equal layers. *)
Lemma shared_blocks_stay_shared (W : 'M[R]_d) N s :
  stages N = nseq (size (stages N)) s ->
  stages (conjugate_stack W N) = nseq (size (stages N)) (conjugate W s).
Proof. by move=> shared; rewrite /= {1}shared map_nseq. Qed.
End Shared.
Print Assumptions shared_wq_elimination.
Print Assumptions shared_blocks_stay_shared.

(** ** Nothing else has to be shared

    Take any layers whatsoever, of different widths, cores, skips, and give all of
    them one [WQ]: that is all the theorem asks. *)
Section OnlyQueries.
Variables (R : comUnitRingType) (n d : nat).

Definition with_query (W : 'M[R]_d) (l : layer R n d) := let b := body l in let a := attn b in
  Stage (Block (Attention (core a) W (W_K a) (W_V a) (W_O a)) (act b) (W_up b) (W_down b) (attention_skip b) (mlp_skip b))
        0 0 0 0 0 0 id id false.

Theorem only_wq_shared v w (E : 'M_(v, d)) (P : 'M_(n, d)) (bodies : seq (layer R n d)) (U : 'M_(d, w)) (W : 'M[R]_d) :
  W \in unitmx ->
  let N := Stack E P [seq with_query W l | l <- bodies] U in
  all (fun s => query s == 1%:M) (stages (conjugate_stack W N)) /\
  forall tokens, run_stack (conjugate_stack W N) tokens = run_stack N tokens.
Proof.
move=> W_inv; apply: shared_wq_elimination => //=; first by elim: bodies.
by elim: bodies => //= l ls ->; rewrite /query /= /square conform_mx_id eqxx.
Qed.
End OnlyQueries.
Print Assumptions only_wq_shared.

Lemma run_stages_ext (R : comUnitRingType) n d (A : Type) (f g : A -> stage R n d) (ls : seq A) X :
  (forall l X, run_stage (f l) X = run_stage (g l) X) ->
  run_stages X [seq f l | l <- ls] = run_stages X [seq g l | l <- ls].
Proof. by move=> same; elim: ls X => //= l ls IH X; rewrite same IH. Qed.

(** ** Sharing the space of each head is enough

    Head [h] sees queries and keys only through its scores.  An invertible matrix
    [B h] can move from its queries to its keys; so the queries of a layer need
    only be [W *m \mxdiag_h B h], with [W] shared and each layer its own [B]. *)
Section HeadSpaces.
Variables (R : comUnitRingType) (n H : nat) (p : 'I_H -> nat).
Local Notation d := (\sum_h p h)%N.

(** H1: from queries and keys only the scores of the heads are used, no rotation,
    no norm.  [g] makes of all scores and the values what it likes: masks, softmax. *)
Definition score_core dv e (g : 'M[R]_(n, \sum_(h < H) n) -> 'M[R]_(n, dv) -> 'M[R]_(n, e)) (q k : 'M[R]_(n, d)) :=
  g (\mxrow_h (submxrow q h *m (submxrow k h)^T)).

Definition align_heads dv e dout g (W : 'M[R]_d) (B : forall h, 'M[R]_(p h)) WK WV WO :=
  Attention (@score_core dv e g) W (WK *m (\mxdiag_h B h)^T) WV WO : attention R n n d d d d dv e dout.

Lemma scores_align (B : forall h, 'M[R]_(p h)) (q k : 'M_(n, d)) h :
  submxrow (q *m \mxdiag_h B h) h *m (submxrow k h)^T = submxrow q h *m (submxrow (k *m (\mxdiag_h B h)^T) h)^T.
Proof.
rewrite tr_mxdiag -{1}[q]submxrowK -[in RHS](submxrowK k) !mul_mxrow_mxdiag !mxrowK.
by rewrite trmx_mul trmxK mulmxA.
Qed.

Lemma score_core_align dv e g (B : forall h, 'M[R]_(p h)) q k v :
  @score_core dv e g (q *m \mxdiag_h B h) k v = @score_core dv e g q (k *m (\mxdiag_h B h)^T) v.
Proof. by rewrite /score_core (eq_mxrow (scores_align B q k)). Qed.

Lemma align_heads_run dv e dout g W B WK WV WO bK bV bO X :
  mha_biased (@align_heads dv e dout g W B WK WV WO) 0 (bK *m (\mxdiag_h B h)^T) bV bO X
  = mha_biased (Attention (score_core g) (W *m \mxdiag_h B h) WK WV WO) 0 bK bV bO X.
Proof.
have same := score_core_align g B (X *m W) (X *m WK + ones *m bK) (X *m WV + ones *m bV).
have no_bias (q : 'M[R]_(n, d)) : q + ones *m 0 = q by rewrite mulmx0 addr0.
rewrite mulmxDl -!(mulmxA _ _ (\mxdiag_h B h)) -!(mulmxA _ _ (\mxdiag_h B h)^T) in same.
rewrite -[X *m W]no_bias -[X *m (W *m _)]no_bias in same.
exact: esym (congr1 (fun Z => Z *m WO + ones *m bO) same).
Qed.

(** A layer with such heads; its keys, values, MLP, biases and skips are free, only
    a query bias is missing. *)
Record headed := Headed {
  of_v : nat;  of_e : nat;  of_up : nat;  of_down : nat;
  mixing : 'M[R]_(n, \sum_(h < H) n) -> 'M[R]_(n, of_v) -> 'M[R]_(n, of_e);
  space : forall h, 'M[R]_(p h);
  key : 'M[R]_d;  value : 'M[R]_(d, of_v);  output : 'M[R]_(of_e, d);
  gate : 'M[R]_(n, of_up) -> 'M[R]_(n, of_down);
  into : 'M[R]_(d, of_up);  outof : 'M[R]_(of_down, d);
  row_K : 'rV[R]_d;  row_V : 'rV[R]_of_v;  row_O : 'rV[R]_d;  row_up : 'rV[R]_of_up;  row_down : 'rV[R]_d;
  skip_1 : bool;  skip_2 : bool }.

(** H2: the queries of the layer are [W *m \mxdiag_h B h]. *)
Definition original (W : 'M[R]_d) l : stage R n d :=
  Stage (Block (Attention (score_core (@mixing l)) (W *m \mxdiag_h space l h) (key l) (value l) (output l))
               (@gate l) (into l) (outof l) (skip_1 l) (skip_2 l))
        0 (row_K l) (row_V l) (row_O l) (row_up l) (row_down l) id id false.

(** The same layer with [B] moved to the keys. *)
Definition aligned (W : 'M[R]_d) l : stage R n d :=
  Stage (Block (align_heads (@mixing l) W (space l) (key l) (value l) (output l))
               (@gate l) (into l) (outof l) (skip_1 l) (skip_2 l))
        0 (row_K l *m (\mxdiag_h space l h)^T) (row_V l) (row_O l) (row_up l) (row_down l) id id false.

Lemma aligned_run W l X : run_stage (aligned W l) X = run_stage (original W l) X.
Proof.
suff same Y : attend (aligned W l) Y = attend (original W l) Y by rewrite /run_stage !same.
exact: align_heads_run.
Qed.

Theorem shared_head_spaces v w (E : 'M_(v, d)) (P : 'M_(n, d)) (ls : seq headed) (U : 'M_(d, w)) (W : 'M[R]_d) :
  W \in unitmx ->
  let new := conjugate_stack W (Stack E P [seq aligned W l | l <- ls] U) in
  all (fun s => query s == 1%:M) (stages new) /\
  forall tokens, run_stack new tokens = run_stack (Stack E P [seq original W l | l <- ls] U) tokens.
Proof.
move=> W_inv new.
have [|||ones same] := @shared_wq_elimination _ _ _ _ _ (Stack E P [seq aligned W l | l <- ls] U) W => //=.
- by elim: ls {new}.
- by elim: ls {new} => //= l ls ->; rewrite /query /= /square conform_mx_id eqxx.
by split=> // tokens; rewrite same /run_stack (run_stages_ext _ _ (aligned_run W)).
Qed.
End HeadSpaces.
Print Assumptions scores_align.
Print Assumptions aligned_run.
Print Assumptions shared_head_spaces.

(** ** One block, applied again and again

    [k] loops of the conjugated block are the conjugate of [k] loops; and a rule that
    stops as soon as something read from the stream says so stops at the same loop. *)
Section Looped.
Variables (R : comUnitRingType) (n d : nat).

Theorem looped_block (s : stage R n d) T k X : T \in unitmx -> no_norm s ->
  iter k (run_stage (conjugate T s)) (X *m T) = iter k (run_stage s) X *m T.
Proof. by move=> T_inv unnormed; elim: k => //= k ->; rewrite conjugate_run. Qed.

(** At most [k] loops; [halt] decides from the product of the stream with [W]. *)
Fixpoint loop r (s : stage R n d) (halt : 'M[R]_(n, r) -> bool) W k X :=
  if k is j.+1 then if halt (X *m W) then X else loop s halt W j (run_stage s X) else X.

Theorem looped_block_halting r (s : stage R n d) (halt : 'M_(n, r) -> bool) W T k X : T \in unitmx -> no_norm s ->
  loop (conjugate T s) halt (invmx T *m W) k (X *m T) = loop s halt W k X *m T.
Proof.
move=> T_inv unnormed; elim: k X => //= k IH X.
by rewrite basis_cancel // conjugate_run // IH; case: ifP.
Qed.
(** The same with weights in place of a decision: [weigh] makes of what is read a
    matrix, say one number per token on its diagonal, and the loops are summed with it. *)
Theorem looped_block_weighted r (s : stage R n d) (weigh : 'M_(n, r) -> 'M[R]_n) W T k X : T \in unitmx -> no_norm s ->
  \sum_(i < k) (let h := iter i (run_stage (conjugate T s)) (X *m T) in weigh (h *m (invmx T *m W)) *m h)
  = (\sum_(i < k) (let h := iter i (run_stage s) X in weigh (h *m W) *m h)) *m T.
Proof.
move=> T_inv unnormed; rewrite mulmx_suml; apply: eq_bigr => i _.
by cbv zeta; rewrite looped_block // basis_cancel // mulmxA.
Qed.
End Looped.
Print Assumptions looped_block.
Print Assumptions looped_block_weighted.
Print Assumptions looped_block_halting.
