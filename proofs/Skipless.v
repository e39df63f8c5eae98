(** * Stacks without skips, and the one construction behind every elimination

    A stack has hidden states: the stream before each layer, the state between
    its attention and its MLP, the stream after the last.  Give every state a
    basis of its own.  A read undoes the basis of the state it reads, a write
    takes on the basis of the state it writes, and an identity skip forces the
    two states it joins into one basis.  All eliminations are choices of bases. *)
From mathcomp Require Import all_ssreflect all_algebra.
From QKV Require Import ThreeProducts Reparametrization.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory.
Local Open Scope ring_scope.

(** ** A layer with everything a layer may have

    A block with its six biases, a norm before each of its two reads (no norm is
    the identity function), serial or parallel.  Core, activation and norms are
    arbitrary functions; all widths but that of the stream are free. *)
Section Stages.
Variables (R : comUnitRingType) (n d : nat).

Record stage := Stage {
  size_q : nat;  size_k : nat;  size_v : nat;  size_e : nat;  size_up : nat;  size_down : nat;
  inner : block R n d size_q size_k size_v size_e size_up size_down;
  bias_Q : 'rV[R]_size_q;  bias_K : 'rV[R]_size_k;  bias_V : 'rV[R]_size_v;  bias_O : 'rV[R]_d;
  bias_up : 'rV[R]_size_up;  bias_down : 'rV[R]_d;
  attention_norm : 'M[R]_(n, d) -> 'M[R]_(n, d);  mlp_norm : 'M[R]_(n, d) -> 'M[R]_(n, d);
  parallel : bool }.

Definition attend s X := mha_biased (attn (inner s)) (bias_Q s) (bias_K s) (bias_V s) (bias_O s) (attention_norm s X).
Definition transform s Y := let b := inner s in
  act b (mlp_norm s Y *m W_up b + ones *m bias_up s) *m W_down b + ones *m bias_down s.

(** A parallel layer has one skip, that of its attention. *)
Definition run_stage s X := let b := inner s in
  if parallel s then
    let F := attend s X + transform s X in if attention_skip b then X + F else F
  else
    let Y := if attention_skip b then X + attend s X else attend s X in
    if mlp_skip b then Y + transform s Y else transform s Y.

Definition run_stages := foldl (fun X s => run_stage s X).

(** Embedding, position table, layers, readout. *)
Record stack v w := Stack {
  embed : 'M[R]_(v, d);  shift : 'M[R]_(n, d);  stages : seq stage;  decode : 'M[R]_(d, w) }.

Definition run_stack v w (N : stack v w) (tokens : 'M_(n, v)) :=
  run_stages (tokens *m embed N + shift N) (stages N) *m decode N.

(** The conditions of the chapters. *)
Definition no_norm s := forall X, attention_norm s X = X /\ mlp_norm s X = X.
Definition no_skip s := ~~ attention_skip (inner s) && ~~ mlp_skip (inner s).
Definition free_of_loops s :=    (* no chain of skips from the stream before the layer to the stream after it *)
  ~~ (attention_skip (inner s) && (mlp_skip (inner s) || parallel s)).

(** Without norms, a serial stage is the block of the chapter before, biases and all. *)
Lemma run_stage_block s X : no_norm s -> ~~ parallel s ->
  run_stage s X = run_block_biased (inner s) (bias_Q s) (bias_K s) (bias_V s) (bias_O s) (bias_up s) (bias_down s) X.
Proof.
move=> unnormed /negbTE serial; have norms Y := unnormed Y.
by rewrite /run_stage serial /attend /transform !(proj1 (norms _)) !(proj2 (norms _)).
Qed.
End Stages.

(** A statement about every element of a list. *)
Fixpoint each (A : Type) (P : A -> Prop) (l : seq A) : Prop :=
  if l is x :: rest then P x /\ each P rest else True.

(** ** One basis per hidden state

    [enter] is the basis of the stream before the layer, [middle] that between
    attention and MLP, [leave] that of the stream after it. *)
Section Carry.
Variables (R : comUnitRingType) (n d : nat).
Implicit Types (s : stage R n d) (enter middle leave last : 'M[R]_d).

(** The reads of a block in the bases [enter] and [middle], its writes in [middle] and [leave]. *)
Definition rebase3 dq dk dv e h1 h2 (b : block R n d dq dk dv e h1 h2) enter middle leave := let a := attn b in
  Block (Attention (core a) (invmx enter *m W_Q a) (invmx enter *m W_K a) (invmx enter *m W_V a) (W_O a *m middle))
        (act b) (invmx middle *m W_up b) (W_down b *m leave) (attention_skip b) (mlp_skip b).

(** A parallel block has no middle: both reads are reads of the stream, both writes land in the next stream. *)
Definition rebase_parallel dq dk dv e h1 h2 (b : block R n d dq dk dv e h1 h2) enter leave := let a := attn b in
  Block (Attention (core a) (invmx enter *m W_Q a) (invmx enter *m W_K a) (invmx enter *m W_V a) (W_O a *m leave))
        (act b) (invmx enter *m W_up b) (W_down b *m leave) (attention_skip b) (mlp_skip b).

(** Biases of reads stay; those of the two writes are rows of the stream and move with it. *)
Definition rebase_stage s enter middle leave :=
  Stage (if parallel s then rebase_parallel (inner s) enter leave else rebase3 (inner s) enter middle leave)
        (bias_Q s) (bias_K s) (bias_V s) (bias_O s *m (if parallel s then leave else middle))
        (bias_up s) (bias_down s *m leave) (attention_norm s) (mlp_norm s) (parallel s).

(** What the bases have to satisfy.  A norm has to commute with the basis of the
    state it reads: every function does if the basis is 1, and no norm always does. *)
Definition commutes (norm : 'M_(n, d) -> 'M_(n, d)) (T : 'M[R]_d) := forall X, norm (X *m T) = norm X *m T.

Definition fits s enter middle leave :=
  [/\ enter \in unitmx, commutes (attention_norm s) enter
    & if parallel s then commutes (mlp_norm s) enter /\ (attention_skip (inner s) -> leave = enter)
      else [/\ middle \in unitmx, commutes (mlp_norm s) middle,
               attention_skip (inner s) -> middle = enter & mlp_skip (inner s) -> leave = middle]].

Lemma attend_rebased s enter middle leave X : enter \in unitmx -> commutes (attention_norm s) enter ->
  attend (rebase_stage s enter middle leave) (X *m enter) = attend s X *m (if parallel s then leave else middle).
Proof.
move=> enter_inv norm1; case: s norm1 => ? ? ? ? ? ? b ? ? ? ? ? ? ? ? [] /= norm1;
  by rewrite /attend /mha_biased /= norm1 !basis_cancel // [RHS]mulmxDl !mulmxA.
Qed.

Lemma transform_rebased s enter middle leave Y : let read := if parallel s then enter else middle in
  read \in unitmx -> commutes (mlp_norm s) read ->
  transform (rebase_stage s enter middle leave) (Y *m read) = transform s Y *m leave.
Proof.
case: s => ? ? ? ? ? ? b ? ? ? ? ? ? ? ? [] /= read_inv norm2;
  by rewrite /transform /= norm2 !basis_cancel // [RHS]mulmxDl !mulmxA.
Qed.

(** In bases that fit, the layer computes what it did, in the basis in which it leaves. *)
Theorem rebase_stage_run s enter middle leave X : fits s enter middle leave ->
  run_stage (rebase_stage s enter middle leave) (X *m enter) = run_stage s X *m leave.
Proof.
case=> enter_inv norm1; rewrite /run_stage attend_rebased //.
have := @transform_rebased s enter middle leave.
have -> : attention_skip (inner (rebase_stage s enter middle leave)) = attention_skip (inner s).
  by rewrite /=; case: (parallel s).
have -> : mlp_skip (inner (rebase_stage s enter middle leave)) = mlp_skip (inner s).
  by rewrite /=; case: (parallel s).
rewrite [parallel (rebase_stage _ _ _ _)]/=; case: (parallel s) => mlp.
  case=> norm2 joined; rewrite mlp //.
  by case: (attention_skip _) joined => [/(_ isT)->|_] //; rewrite !mulmxDl.
case=> middle_inv norm2 joined1 joined2.
have -> : (if attention_skip (inner s) then X *m enter + attend s X *m middle else attend s X *m middle)
   = (if attention_skip (inner s) then X + attend s X else attend s X) *m middle.
  by case: (attention_skip _) joined1 => [/(_ isT)->|_] //; rewrite mulmxDl.
by rewrite mlp //; case: (mlp_skip _) joined2 => [/(_ isT)->|_] //; rewrite [RHS]mulmxDl.
Qed.

(** The same for a block on its own, with its six biases, and without any. *)
Theorem rebase3_run_biased dq dk dv e h1 h2 (b : block R n d dq dk dv e h1 h2) enter middle leave
    bQ bK bV bO bU bD X :
  enter \in unitmx -> middle \in unitmx -> (attention_skip b -> middle = enter) -> (mlp_skip b -> leave = middle) ->
  run_block_biased (rebase3 b enter middle leave) bQ bK bV (bO *m middle) bU (bD *m leave) (X *m enter)
  = run_block_biased b bQ bK bV bO bU bD X *m leave.
Proof.
move=> enter_inv middle_inv joined1 joined2.
have fit : fits (Stage b bQ bK bV bO bU bD id id false) enter middle leave by [].
by have := rebase_stage_run X fit; rewrite !run_stage_block.
Qed.

Theorem rebase3_run dq dk dv e h1 h2 (b : block R n d dq dk dv e h1 h2) enter middle leave X :
  enter \in unitmx -> middle \in unitmx -> (attention_skip b -> middle = enter) -> (mlp_skip b -> leave = middle) ->
  run_block (rebase3 b enter middle leave) (X *m enter) = run_block b X *m leave.
Proof.
move=> enter_inv middle_inv joined1 joined2.
have := rebase3_run_biased 0 0 0 0 0 0 X enter_inv middle_inv joined1 joined2.
by rewrite /run_block_biased /mha_biased !mul0mx !mulmx0 !addr0.
Qed.

(** A plan gives each layer its [enter] and its [middle]; it leaves into the
    [enter] of the next layer, and the last one into [last]. *)
Definition plan := seq (stage R n d * ('M[R]_d * 'M[R]_d)).
Implicit Types p : plan.

Definition entering p last := if p is (_, (enter, _)) :: _ then enter else last.

Fixpoint carry p last :=
  if p is (s, (enter, middle)) :: rest then rebase_stage s enter middle (entering rest last) :: carry rest last else [::].

Fixpoint fitting p last : Prop :=
  if p is (s, (enter, middle)) :: rest then fits s enter middle (entering rest last) /\ fitting rest last else True.

Theorem carry_run p last X : fitting p last ->
  run_stages (X *m entering p last) (carry p last) = run_stages X (unzip1 p) *m last.
Proof.
elim: p X => [|[s [enter middle]] p IH] X //= [fit fit_rest].
by rewrite rebase_stage_run // IH.
Qed.

(** The whole network: embedding and positions in the first basis, the readout undoes the last. *)
Definition carry_stack v w (E : 'M_(v, d)) (P : 'M_(n, d)) p last (U : 'M_(d, w)) :=
  Stack (E *m entering p last) (P *m entering p last) (carry p last) (invmx last *m U).

Theorem carry_stack_run v w (E : 'M_(v, d)) P p last (U : 'M_(d, w)) tokens :
  fitting p last -> last \in unitmx ->
  run_stack (carry_stack E P p last U) tokens = run_stack (Stack E P (unzip1 p) U) tokens.
Proof. by move=> fit last_inv; rewrite /run_stack /= mulmxA -mulmxDl carry_run // basis_cancel. Qed.
End Carry.
Print Assumptions rebase_stage_run.
Print Assumptions rebase3_run_biased.
Print Assumptions rebase3_run.
Print Assumptions carry_run.
Print Assumptions carry_stack_run.

(** ** The basis is one of the layer's own projections

    [square W] is [W] itself if [W] is square, and 0 if it is not: so to say that
    [square W] is invertible is to say that [W] is square and invertible. *)
Section Choose.
Variables (R : comUnitRingType) (n d : nat).
Implicit Types s : stage R n d.

Definition square p (W : 'M[R]_(d, p)) : 'M_d := conform_mx 0 W.

Lemma square_becomes_one p (W : 'M_(d, p)) : square W \in unitmx -> square (invmx (square W) *m W) = 1%:M.
Proof.
have [dp|dp] := eqVneq d p; first by move: W; rewrite /square -dp => W; rewrite !conform_mx_id => /mulVmx.
have not_square : (d != d) || (p != d) by rewrite orbC eq_sym dp.
rewrite /square !(nonconform_mx _ _ not_square) => zero_inv.
by rewrite -(mulVmx zero_inv) mulmx0.
Qed.

Inductive letter := Query | Key | Value.

Definition projection x s : 'M_d := let a := attn (inner s) in
  match x with Query => square (W_Q a) | Key => square (W_K a) | Value => square (W_V a) end.

Lemma projection_becomes_one x s middle leave : projection x s \in unitmx ->
  projection x (rebase_stage s (projection x s) middle leave) = 1%:M.
Proof.
rewrite {2}/projection /rebase_stage.
by case: s x => ? ? ? ? ? ? b ? ? ? ? ? ? ? ? [] [] /=; apply: square_becomes_one.
Qed.

(** The state between attention and MLP takes the basis that a skip dictates, and stays as it is without one. *)
Definition dictated s enter leave : 'M[R]_d :=
  if attention_skip (inner s) then enter else if mlp_skip (inner s) then leave else 1%:M.

(** Layers with their entering bases, made into a plan whose last state stays as it is. *)
Fixpoint thread (ls : seq (stage R n d * 'M[R]_d)) : plan R n d :=
  if ls is (s, enter) :: rest then (s, (enter, dictated s enter (entering (thread rest) 1%:M))) :: thread rest else [::].

Lemma thread_stages ls : unzip1 (thread ls) = unzip1 ls.
Proof. by elim: ls => [|[s T] ls IH] //=; rewrite IH. Qed.

Lemma no_norm_commutes s T : no_norm s -> commutes (attention_norm s) T /\ commutes (mlp_norm s) T.
Proof. by move=> unnormed; split=> X; rewrite ?(proj1 (unnormed _)) ?(proj2 (unnormed _)). Qed.

Lemma thread_fits ls : all (fun sT => free_of_loops sT.1) ls -> each (fun sT => no_norm sT.1) ls ->
  all (fun sT => sT.2 \in unitmx) ls -> fitting (thread ls) 1%:M.
Proof.
elim: ls => [|[s T] ls IH] //= /andP[free frees] [unnormed unnormeds] /andP[T_inv Ts_inv].
split; last exact: IH.
have leave_inv : entering (thread ls) 1%:M \in unitmx by case: (ls) Ts_inv => [|[s' T'] ls'] /=; rewrite ?unitmx1 // => /andP[].
have comm := no_norm_commutes _ unnormed.
split=> //; first by case: (comm T).
move: free; rewrite /free_of_loops /dictated.
case: (attention_skip _); case: (mlp_skip _); case: (parallel _) => // _; split=> //;
  by [case: (comm T) | case: (comm (entering (thread ls) 1%:M)) | case: (comm 1%:M) | rewrite unitmx1].
Qed.

(** Each layer loses the projection that it names. *)
Definition bases (ls : seq (stage R n d * letter)) := [seq (sx.1, projection sx.2 sx.1) | sx <- ls].
Definition eliminate ls := carry (thread (bases ls)) 1%:M.
Definition eliminate_stack v w (E : 'M_(v, d)) (P : 'M_(n, d)) ls (U : 'M_(d, w)) :=
  let T := entering (thread (bases ls)) 1%:M in Stack (E *m T) (P *m T) (eliminate ls) U.

Lemma eliminate_ones ls : all (fun sx => projection sx.2 sx.1 \in unitmx) ls ->
  all2 (fun s x => projection x s == 1%:M) (eliminate ls) (unzip2 ls).
Proof.
elim: ls => [|[s x] ls IH] //= /andP[T_inv /IH Ts_one].
by rewrite projection_becomes_one // eqxx.
Qed.

Lemma eliminate_run v w E P ls U (tokens : 'M_(n, v)) :
  all (fun sx => free_of_loops sx.1) ls -> each (fun sx => no_norm sx.1) ls ->
  all (fun sx => projection sx.2 sx.1 \in unitmx) ls ->
  run_stack (eliminate_stack E P ls U : stack R n d v w) tokens = run_stack (Stack E P (unzip1 ls) U) tokens.
Proof.
move=> free unnormed inv.
have fit : fitting (thread (bases ls)) 1%:M.
  apply: thread_fits; rewrite ?all_map //.
  by elim: (ls) unnormed => [|sx l IH] //= [? /IH].
have := carry_stack_run E P U tokens fit (unitmx1 _ _).
by rewrite thread_stages /unzip1 -map_comp /carry_stack /run_stack /= invmx1 mul1mx.
Qed.

(** The same for the queries of all layers. *)
Definition queries ls := [seq (s, Query) | s <- ls] : seq (stage R n d * letter).
Definition query s := projection Query s.

Definition without_queries v w (N : stack R n d v w) := eliminate_stack (embed N) (shift N) (queries (stages N)) (decode N).

Lemma without_queries_ones v w (N : stack R n d v w) : all (fun s => query s \in unitmx) (stages N) ->
  all (fun s => query s == 1%:M) (stages (without_queries N)).
Proof.
case: N => E P ls U /= inv; have := @eliminate_ones (queries ls); rewrite all_map => /(_ inv).
by rewrite /queries; elim: ls (eliminate _) {inv} => [|s ls IH] [|s' ls'] //= /andP[-> /IH].
Qed.

Lemma without_queries_run v w (N : stack R n d v w) tokens :
  all (@free_of_loops R n d) (stages N) -> each (@no_norm R n d) (stages N) ->
  all (fun s => query s \in unitmx) (stages N) ->
  run_stack (without_queries N) tokens = run_stack N tokens.
Proof.
case: N => E P ls U /= free unnormed inv; rewrite /without_queries /= eliminate_run ?all_map //.
  by congr (run_stack (Stack _ _ _ _)); elim: (ls) => [|s l IH] //=; rewrite IH.
by elim: (ls) unnormed => [|s l IH] //= [? /IH].
Qed.
End Choose.
Print Assumptions eliminate_run.
Print Assumptions without_queries_run.

(** ** Without skips every query projection becomes the identity

    What becomes of the weights of one layer, written out: the first state takes
    the basis [T], the state between attention and MLP stays as it is, so the
    output projection and the input of the MLP do as well. *)
Section Skipless.
Variables (R : comUnitRingType) (n d v w : nat).
Implicit Types (s : stage R n d) (N : stack R n d v w).

Theorem skipless_weights s T leave : ~~ parallel s -> let b := inner s in let a := attn b in
  rebase_stage s T 1%:M leave =
  Stage (Block (Attention (core a) (invmx T *m W_Q a) (invmx T *m W_K a) (invmx T *m W_V a) (W_O a))
               (act b) (W_up b) (W_down b *m leave) (attention_skip b) (mlp_skip b))
        (bias_Q s) (bias_K s) (bias_V s) (bias_O s) (bias_up s) (bias_down s *m leave)
        (attention_norm s) (mlp_norm s) (parallel s).
Proof. by move=> /negbTE serial; rewrite /rebase_stage /rebase3 serial invmx1 !mulmx1 mul1mx. Qed.

(** Each layer is entered in the basis that is its own [WQ]; the last state stays
    as it is, and with it the readout.  H1, H2 and H3 are the three premises. *)
Theorem skipless_elimination N :
  all (@no_skip R n d) (stages N) ->
  each (@no_norm R n d) (stages N) ->
  all (fun s => query s \in unitmx) (stages N) ->
  all (fun s => query s == 1%:M) (stages (without_queries N)) /\
  forall tokens, run_stack (without_queries N) tokens = run_stack N tokens.
Proof.
move=> skipless unnormed inv; split=> [|tokens]; first exact: without_queries_ones.
apply: without_queries_run => //; apply: sub_all skipless => s.
by rewrite /no_skip /free_of_loops => /andP[/negbTE-> _].
Qed.
End Skipless.
Print Assumptions skipless_weights.
Print Assumptions skipless_elimination.

(** ** All bases are free

    Two states per layer and the last one: any invertible matrix may be the basis
    of each.  If the bases before the layers are the [WQ], these go; the bases in
    the middle can do something else at the same time. *)
Theorem skipless_free_bases (R : comUnitRingType) n d v w
    (E : 'M[R]_(v, d)) (P : 'M_(n, d)) (p : plan R n d) last (U : 'M_(d, w)) :
  all (fun x => no_skip x.1) p ->
  each (fun x => no_norm x.1) p ->
  all (fun x => (x.2.1 \in unitmx) && (x.2.2 \in unitmx)) p -> last \in unitmx ->
  (forall tokens, run_stack (carry_stack E P p last U) tokens = run_stack (Stack E P (unzip1 p) U) tokens) /\
  (all (fun x => x.2.1 == query x.1) p -> all (fun s => query s == 1%:M) (carry p last)).
Proof.
move=> skipless unnormed inv last_inv; split=> [tokens|chosen].
  apply: carry_stack_run => //.
  elim: p skipless unnormed inv => [|[s [T M]] p IH] //= /andP[free frees] [un uns] /andP[/andP[T_inv M_inv] inv].
  split; last exact: IH.
  move: free; rewrite /no_skip /fits => /andP[/negbTE-> /negbTE->].
  have comm T' := no_norm_commutes T' un.
  by split; [|case: (comm T)|case: (parallel s); split=> //; [case: (comm T)|case: (comm M)]].
elim: p chosen inv {skipless unnormed} => [|[s [T M]] p IH] //= /andP[/eqP-> chosen] /andP[/andP[T_inv _] inv].
by rewrite {1}/query projection_becomes_one // eqxx IH.
Qed.
Print Assumptions skipless_free_bases.

(** ** No query and no output projection

    Without a skip nothing else reads what attention writes, so [WO] and the first
    matrix of the MLP are one matrix: a layer without [WO], which needs no inverse. *)
Section Merge.
Variables (R : comUnitRingType) (n d : nat).

Record merged := Merged {
  wide_q : nat;  wide_k : nat;  wide_v : nat;  wide_e : nat;  wide_up : nat;  wide_down : nat;
  m_core : 'M[R]_(n, wide_q) -> 'M[R]_(n, wide_k) -> 'M[R]_(n, wide_v) -> 'M[R]_(n, wide_e);
  m_Q : 'M[R]_(d, wide_q);  m_K : 'M[R]_(d, wide_k);  m_V : 'M[R]_(d, wide_v);
  m_act : 'M[R]_(n, wide_up) -> 'M[R]_(n, wide_down);
  m_up : 'M[R]_(wide_e, wide_up);  m_down : 'M[R]_(wide_down, d);
  b_Q : 'rV[R]_wide_q;  b_K : 'rV[R]_wide_k;  b_V : 'rV[R]_wide_v;  b_up : 'rV[R]_wide_up;  b_down : 'rV[R]_d }.

Definition run_merged m X :=
  @m_act m (@m_core m (X *m m_Q m + ones *m b_Q m) (X *m m_K m + ones *m b_K m) (X *m m_V m + ones *m b_V m)
           *m m_up m + ones *m b_up m) *m m_down m + ones *m b_down m.

Definition run_merged_stack v w (E : 'M_(v, d)) P ms (U : 'M_(d, w)) (tokens : 'M_(n, v)) :=
  foldl (fun X m => run_merged m X) (tokens *m E + P) ms *m U.

Definition merge s := let b := inner s in let a := attn b in
  Merged (core a) (W_Q a) (W_K a) (W_V a) (act b) (W_O a *m W_up b) (W_down b)
         (bias_Q s) (bias_K s) (bias_V s) (bias_O s *m W_up b + bias_up s) (bias_down s).

Definition merged_projection x m : 'M_d :=
  match x with Query => square (m_Q m) | Key => square (m_K m) | Value => square (m_V m) end.

Lemma merge_projection x s : merged_projection x (merge s) = projection x s.
Proof. by case: x. Qed.

(** H1: one after the other, without a skip, without a norm. *)
Definition plain (s : stage R n d) := ~~ parallel s && no_skip s.

Lemma merge_run s X : plain s -> no_norm s -> run_merged (merge s) X = run_stage s X.
Proof.
case/andP=> serial /andP[/negbTE skip1 /negbTE skip2] unnormed.
rewrite run_stage_block // /run_block_biased /mha_biased skip1 skip2 /run_merged /=.
by rewrite [in RHS]mulmxDl mulmxDr -!mulmxA addrA.
Qed.

Lemma merge_stack v w (E : 'M_(v, d)) P ls (U : 'M_(d, w)) tokens : all plain ls -> each (@no_norm R n d) ls ->
  run_merged_stack E P [seq merge s | s <- ls] U tokens = run_stack (Stack E P ls U) tokens.
Proof.
rewrite /run_merged_stack /run_stack /=; elim: ls (_ + _) => [|s ls IH] X //= /andP[s_plain plains] [un uns].
by rewrite merge_run // IH.
Qed.

(** The conditions survive the change of bases. *)
Lemma eliminate_plain ls : all (fun sx => plain sx.1) ls -> each (fun sx => no_norm sx.1) ls ->
  all plain (eliminate ls) /\ each (@no_norm R n d) (eliminate ls).
Proof.
elim: ls => [|[s x] ls IH] //= /andP[s_plain plains] [un uns]; have [-> ?] := IH plains uns.
by split=> //; rewrite andbT; move: s_plain; rewrite /plain /no_skip /=; case: (parallel s).
Qed.

(** One of the three letters, in all layers.  For Q the keys and values may be
    narrow; K and V have to be square, which [projection] says with [unitmx]. *)
Theorem graef_table x v w (N : stack R n d v w) :
  all plain (stages N) ->
  each (@no_norm R n d) (stages N) ->
  all (fun s => projection x s \in unitmx) (stages N) ->
  let ls := [seq (s, x) | s <- stages N] in let T := entering (thread (bases ls)) 1%:M in
  let ms := [seq merge s | s <- eliminate ls] in
  all (fun m => merged_projection x m == 1%:M) ms /\
  forall tokens, run_merged_stack (embed N *m T) (shift N *m T) ms (decode N) tokens = run_stack N tokens.
Proof.
case: N => E P ss U /= plains uns inv.
set ls := [seq (s, x) | s <- ss]; have ss_ls : unzip1 ls = ss by rewrite /ls; elim: (ss) => //= s l ->.
have plains' : all (fun sx => plain sx.1) ls by rewrite all_map.
have uns' : each (fun sx => no_norm sx.1) ls by rewrite /ls; elim: (ss) uns => //= s l IH [? /IH].
have inv' : all (fun sx => projection sx.2 sx.1 \in unitmx) ls by rewrite all_map.
have [plains2 uns2] := eliminate_plain plains' uns'; split=> [|tokens].
  have := eliminate_ones inv'; rewrite all_map /ls.
  by elim: (ss) (eliminate _) => [|s l IH] [|s' l'] //= /andP[one /IH ->]; rewrite merge_projection one.
rewrite merge_stack // -ss_ls; apply: eliminate_run => //.
by apply: sub_all plains' => sx; rewrite /plain /no_skip /free_of_loops => /and3P[_ /negbTE->].
Qed.

(** With V in place of Q: neither a value nor an output projection is left.  Not
    to have [WO] is to have the identity in its place. *)
Theorem values_identity_as_gauge v w (N : stack R n d v w) :
  all plain (stages N) ->
  each (@no_norm R n d) (stages N) ->
  all (fun s => projection Value s \in unitmx) (stages N) ->
  let ls := [seq (s, Value) | s <- stages N] in let T := entering (thread (bases ls)) 1%:M in
  let ms := [seq merge s | s <- eliminate ls] in
  all (fun m => square (m_V m) == 1%:M) ms /\
  forall tokens, run_merged_stack (embed N *m T) (shift N *m T) ms (decode N) tokens = run_stack N tokens.
Proof. exact: (@graef_table Value). Qed.
End Merge.
Print Assumptions merge_run.
Print Assumptions graef_table.
Print Assumptions values_identity_as_gauge.

(** If [WO] is square and invertible, its inverse is a basis of the state that it
    writes: [WO] and [WV] become identities by two changes of basis. *)
Theorem values_outputs_identity (R : comUnitRingType) n d dq dk h1 h2
    (b : block R n d dq dk d d h1 h2) leave X :
  ~~ attention_skip b -> ~~ mlp_skip b -> W_V (attn b) \in unitmx -> W_O (attn b) \in unitmx ->
  let b' := rebase3 b (W_V (attn b)) (invmx (W_O (attn b))) leave in
  [/\ W_V (attn b') = 1%:M, W_O (attn b') = 1%:M, W_up b' = W_O (attn b) *m W_up b
    & run_block b' (X *m W_V (attn b)) = run_block b X *m leave].
Proof.
move=> /negbTE skip1 /negbTE skip2 V_inv O_inv; rewrite /= invmxK mulVmx // mulmxV //; split=> //.
by rewrite /run_block /mha /cross /= skip1 skip2 invmxK mulmxV // mulVmx // !mulmx1 !basis_cancel // !mulmxA.
Qed.

Print Assumptions values_outputs_identity.

(** ** Other choices, other topologies

    A letter of its own for each layer, where each layer has at most one skip:
    around attention, around the MLP, or neither, and not the same in all layers. *)
Theorem skipless_mixed_choice (R : comUnitRingType) n d v w
    (E : 'M[R]_(v, d)) (P : 'M_(n, d)) (ls : seq (stage R n d * letter)) (U : 'M_(d, w)) :
  all (fun sx => free_of_loops sx.1) ls ->
  each (fun sx => no_norm sx.1) ls ->
  all (fun sx => projection sx.2 sx.1 \in unitmx) ls ->
  all2 (fun s x => projection x s == 1%:M) (eliminate ls) (unzip2 ls) /\
  forall tokens, run_stack (eliminate_stack E P ls U) tokens = run_stack (Stack E P (unzip1 ls) U) tokens.
Proof. by move=> free unnormed inv; split=> [|tokens]; [apply: eliminate_ones | apply: eliminate_run]. Qed.
Print Assumptions skipless_mixed_choice.

(** Attention and MLP side by side, no skip: both write into the next basis. *)
Section Parallel.
Variables (R : comUnitRingType) (n d : nat).
Implicit Types s : stage R n d.

Definition parallel_no_skip s := parallel s && ~~ attention_skip (inner s).

Lemma run_parallel s X : parallel_no_skip s -> run_stage s X = attend s X + transform s X.
Proof. by rewrite /run_stage => /andP[-> /negbTE->]. Qed.

Theorem skipless_parallel v w (N : stack R n d v w) :
  all parallel_no_skip (stages N) ->
  each (@no_norm R n d) (stages N) ->
  all (fun s => query s \in unitmx) (stages N) ->
  all (fun s => query s == 1%:M) (stages (without_queries N)) /\
  forall tokens, run_stack (without_queries N) tokens = run_stack N tokens.
Proof.
move=> skipless unnormed inv; split=> [|tokens]; first exact: without_queries_ones.
apply: without_queries_run => //; apply: sub_all skipless => s.
by rewrite /free_of_loops => /andP[_ /negbTE->].
Qed.
End Parallel.
Print Assumptions run_parallel.
Print Assumptions skipless_parallel.
