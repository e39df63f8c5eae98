(** * One skip: around attention, or around the MLP

    A skip joins two of the three states of a layer into one basis.  As long as
    the stream before the layer and the stream after it are not joined, each
    layer keeps a basis of its own. *)
From mathcomp Require Import all_ssreflect all_algebra.
From QKV Require Import ThreeProducts Reparametrization Skipless.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory.
Local Open Scope ring_scope.

(** ** A skip around attention only

    The middle state has the basis in which the layer is entered, its own [WQ];
    the MLP reads in that basis and writes in the next. *)
Section AttentionSkip.
Variables (R : comUnitRingType) (n d v w : nat).
Implicit Types (s : stage R n d) (N : stack R n d v w).

Definition skip_around_attention s := [&& ~~ parallel s, attention_skip (inner s) & ~~ mlp_skip (inner s)].

(** What becomes of every weight and bias of one layer. *)
Theorem attn_skip_weights s T leave : skip_around_attention s -> let b := inner s in let a := attn b in
  rebase_stage s T (dictated s T leave) leave =
  Stage (Block (Attention (core a) (invmx T *m W_Q a) (invmx T *m W_K a) (invmx T *m W_V a) (W_O a *m T))
               (act b) (invmx T *m W_up b) (W_down b *m leave) (attention_skip b) (mlp_skip b))
        (bias_Q s) (bias_K s) (bias_V s) (bias_O s *m T) (bias_up s) (bias_down s *m leave)
        (attention_norm s) (mlp_norm s) (parallel s).
Proof. by case/and3P=> /negbTE serial skip _; rewrite /rebase_stage /rebase3 /dictated serial skip. Qed.

(** H1, H2, H3 are the three premises.  H4, the untied readout: [decode N] is a
    matrix of its own, and it is not changed. *)
Theorem attn_skip_elimination N :
  all skip_around_attention (stages N) ->
  each (@no_norm R n d) (stages N) ->
  all (fun s => query s \in unitmx) (stages N) ->
  [/\ all (fun s => query s == 1%:M) (stages (without_queries N)),
      decode (without_queries N) = decode N
    & forall tokens, run_stack (without_queries N) tokens = run_stack N tokens].
Proof.
move=> topology unnormed inv; split=> [||tokens] //; first exact: without_queries_ones.
apply: without_queries_run => //; apply: sub_all topology => s.
by rewrite /free_of_loops => /and3P[/negbTE-> _ /negbTE->]; rewrite andbF.
Qed.
End AttentionSkip.
Print Assumptions attn_skip_weights.
Print Assumptions attn_skip_elimination.

(** ** A tied readout costs one layer

    The readout is the transpose of the embedding.  If the first state stays as
    it is, so do both; all layers but the first can lose their [WQ]. *)
Definition tied_bases (R : comUnitRingType) n d (s : stage R n d) rest :=
  (s, 1%:M) :: [seq (t, query t) | t <- rest].

Theorem attn_skip_tied (R : comUnitRingType) n d v (E : 'M[R]_(v, d)) (P : 'M_(n, d)) (s : stage R n d) rest :
  all (@skip_around_attention R n d) (s :: rest) ->
  each (@no_norm R n d) (s :: rest) ->
  all (fun t => query t \in unitmx) rest ->
  let new := carry (thread (tied_bases s rest)) 1%:M in
  all (fun t => query t == 1%:M) (behead new) /\
  forall tokens, run_stack (Stack E P new E^T) tokens = run_stack (Stack E P (s :: rest) E^T) tokens.
Proof.
move=> topology unnormed inv new; split=> [|tokens].
  rewrite /new /tied_bases /=; elim: (rest) inv => [|t l IH] //= /andP[t_inv /IH ->].
  by rewrite {1}/query projection_becomes_one // eqxx.
have fit : fitting (thread (tied_bases s rest)) 1%:M.
  apply: thread_fits.
  - rewrite /= all_map; move: topology; apply: (@sub_all _ _ (fun t => free_of_loops t) _ (s :: rest)) => t.
    by rewrite /free_of_loops => /and3P[/negbTE-> _ /negbTE->]; rewrite andbF.
  - by case: unnormed => un uns; split=> //=; elim: (rest) uns => //= t l IH [? /IH].
  - by rewrite /= unitmx1 all_map.
have := carry_stack_run E P E^T tokens fit (unitmx1 _ _).
rewrite thread_stages /carry_stack invmx1 mul1mx /= !mulmx1 => ->.
by congr (run_stack (Stack _ _ (_ :: _) _)); elim: (rest) => //= t l ->.
Qed.
Print Assumptions attn_skip_tied.

(** ** A skip around the MLP only

    Now the middle state has the basis in which the layer is left. *)
Section MlpSkip.
Variables (R : comUnitRingType) (n d v w : nat).
Implicit Types (s : stage R n d) (N : stack R n d v w).

Definition skip_around_mlp s := [&& ~~ parallel s, ~~ attention_skip (inner s) & mlp_skip (inner s)].

Theorem mlp_skip_weights s T leave : skip_around_mlp s -> let b := inner s in let a := attn b in
  rebase_stage s T (dictated s T leave) leave =
  Stage (Block (Attention (core a) (invmx T *m W_Q a) (invmx T *m W_K a) (invmx T *m W_V a) (W_O a *m leave))
               (act b) (invmx leave *m W_up b) (W_down b *m leave) (attention_skip b) (mlp_skip b))
        (bias_Q s) (bias_K s) (bias_V s) (bias_O s *m leave) (bias_up s) (bias_down s *m leave)
        (attention_norm s) (mlp_norm s) (parallel s).
Proof.
by case/and3P=> /negbTE serial /negbTE no_skip skip; rewrite /rebase_stage /rebase3 /dictated serial no_skip skip.
Qed.

Theorem mlp_skip_only_elimination N :
  all skip_around_mlp (stages N) ->
  each (@no_norm R n d) (stages N) ->
  all (fun s => query s \in unitmx) (stages N) ->
  all (fun s => query s == 1%:M) (stages (without_queries N)) /\
  forall tokens, run_stack (without_queries N) tokens = run_stack N tokens.
Proof.
move=> topology unnormed inv; split=> [|tokens]; first exact: without_queries_ones.
apply: without_queries_run => //; apply: sub_all topology => s.
by rewrite /free_of_loops => /and3P[_ /negbTE-> _].
Qed.
End MlpSkip.
Print Assumptions mlp_skip_weights.
Print Assumptions mlp_skip_only_elimination.

(** ** The general rule: a skip joins two states into one basis

    [a]: is there a skip around attention; [m]: one around the MLP.  Three bases
    serve all blocks with these skips, whatever their weights, exactly if states
    joined by a skip have one basis. *)
Theorem basis_segments (R : comUnitRingType) n d (a m : bool) (enter middle leave : 'M[R]_d) :
  enter \in unitmx -> middle \in unitmx -> leave \in unitmx ->
  (forall dq dk dv e h1 h2 (b : block R n.+1 d dq dk dv e h1 h2) X, attention_skip b = a -> mlp_skip b = m ->
     run_block (rebase3 b enter middle leave) (X *m enter) = run_block b X *m leave)
  <-> (a -> middle = enter) /\ (m -> leave = middle).
Proof.
move=> enter_inv middle_inv leave_inv; split=> [same|[joined1 joined2] dq dk dv e h1 h2 b X ab mb]; last first.
  by apply: rebase3_run => //; rewrite ?ab ?mb.
(* attention writes C, the MLP writes what act makes of its input *)
pose b C f := Block (Attention (fun _ _ _ => C) 0 0 0 1%:M) f 1%:M 1%:M a m : block R n.+1 d d d d d d d.
have {}same C f X := same _ _ _ _ _ _ (b C f) X erefl erefl.
have mlp_joins : m -> leave = middle.
  move=> m_true; apply/esym/(@mulmx_ext _ n) => C; have := same C (fun=> 0) 0.
  by rewrite /run_block /mha /cross /= m_true !mul0mx !mulmx1 !mul1mx !addr0 !add0r; case: (a).
split=> // a_true; apply: (@mulmx_ext _ n) => X.
have [m_true|/negP m_false] := boolP m.
  have := same 0 (fun=> 0) X; rewrite /run_block /mha /cross /= a_true m_true !mul0mx !addr0 => ->.
  by rewrite mlp_joins.
have := same 0 id X; rewrite /run_block /mha /cross /= a_true (introF idP m_false) !mul0mx !addr0 !mulmx1 mul1mx.
by move/(congr1 (mulmx^~ (invmx leave *m middle))); rewrite !basis_cancel // mulmxKV // => ->; rewrite mulmxKV.
Qed.
Print Assumptions basis_segments.
