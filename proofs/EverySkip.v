(** * Every skip is there: one basis for the whole network

    If skips join all states, one basis is left, and it is free: one matrix of
    the network can become the identity. *)
From mathcomp Require Import all_ssreflect all_algebra.
From QKV Require Import ThreeProducts Reparametrization Skipless.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory.
Local Open Scope ring_scope.

(** ** One basis everywhere

    Serial or parallel layers in any order, each with any of the skips: nothing
    about the topology is assumed.  Reads undo [T], writes take it on. *)
Section Conjugate.
Variables (R : comUnitRingType) (n d : nat).
Implicit Types (s : stage R n d) (T : 'M[R]_d).

Definition conjugate T s := rebase_stage s T T T.

(** What becomes of every weight and bias of one layer. *)
Lemma conjugate_weights T s : let b := inner s in let a := attn b in
  conjugate T s =
  Stage (Block (Attention (core a) (invmx T *m W_Q a) (invmx T *m W_K a) (invmx T *m W_V a) (W_O a *m T))
               (act b) (invmx T *m W_up b) (W_down b *m T) (attention_skip b) (mlp_skip b))
        (bias_Q s) (bias_K s) (bias_V s) (bias_O s *m T) (bias_up s) (bias_down s *m T)
        (attention_norm s) (mlp_norm s) (parallel s).
Proof. by rewrite /conjugate /rebase_stage /rebase3 /rebase_parallel; case: (parallel s). Qed.

Lemma conjugate_run T s X : T \in unitmx -> no_norm s -> run_stage (conjugate T s) (X *m T) = run_stage s X *m T.
Proof.
move=> T_inv unnormed; have [comm1 comm2] := no_norm_commutes T unnormed.
by apply: rebase_stage_run; split=> //; case: (parallel s).
Qed.

Definition conjugate_stack v w T (N : stack R n d v w) :=
  Stack (embed N *m T) (shift N *m T) [seq conjugate T s | s <- stages N] (invmx T *m decode N).

(** It is the plan in which every state has the basis [T]. *)
Lemma conjugate_carries v w T (N : stack R n d v w) :
  conjugate_stack T N = carry_stack (embed N) (shift N) [seq (s, (T, T)) | s <- stages N] T (decode N).
Proof.
rewrite /conjugate_stack /carry_stack; case: N => E P ls U /=.
have start l : entering [seq (s, (T, T)) | s : stage R n d <- l] T = T by case: l.
by rewrite start; congr Stack; elim: ls => //= s ls ->; rewrite start.
Qed.

Theorem network_conj v w T (N : stack R n d v w) tokens : T \in unitmx -> each (@no_norm R n d) (stages N) ->
  run_stack (conjugate_stack T N) tokens = run_stack N tokens.
Proof.
move=> T_inv unnormed; rewrite conjugate_carries carry_stack_run //.
  by case: N {unnormed} => E P ls U /=; congr (run_stack (Stack _ _ _ _)); elim: ls => //= s ls ->.
elim: (stages N) unnormed => //= s ls IH [un uns]; split; last exact: IH.
have -> : entering [seq (s, (T, T)) | s : stage R n d <- ls] T = T by case: (ls).
by have [comm1 comm2] := no_norm_commutes T un; split=> //; case: (parallel s).
Qed.

(** The layer [s] stands anywhere between others.  H1: no norms.  H2: any skips,
    no premise.  H3: its [WQ] is square and invertible.  H4: [decode N] is a matrix of
    its own, so it can undo the basis. *)
Theorem one_layer_free v w (E : 'M_(v, d)) (P : 'M_(n, d)) before s after (U : 'M_(d, w)) :
  let N := Stack E P (before ++ s :: after) U in let T := query s in
  each (@no_norm R n d) (stages N) ->
  T \in unitmx ->
  query (nth s (stages (conjugate_stack T N)) (size before)) = 1%:M /\
  forall tokens, run_stack (conjugate_stack T N) tokens = run_stack N tokens.
Proof.
move=> N T unnormed T_inv; split=> [|tokens]; last exact: network_conj.
by rewrite /= map_cat nth_cat size_map ltnn subnn /= /query projection_becomes_one.
Qed.

(** Parallel layers with a skip: x + attention(x) + MLP(x). *)
Definition parallel_with_skip s := parallel s && attention_skip (inner s).

Lemma run_parallel_skip s X : parallel_with_skip s -> run_stage s X = X + (attend s X + transform s X).
Proof. by rewrite /run_stage => /andP[-> ->]. Qed.

Theorem parallel_global v w (N : stack R n d v w) T tokens :
  all parallel_with_skip (stages N) -> each (@no_norm R n d) (stages N) -> T \in unitmx ->
  all parallel_with_skip (stages (conjugate_stack T N)) /\
  run_stack (conjugate_stack T N) tokens = run_stack N tokens.
Proof.
move=> topology unnormed T_inv; split; last exact: network_conj.
by rewrite all_map; apply: sub_all topology => s; rewrite /parallel_with_skip /=; case: (parallel s).
Qed.
End Conjugate.
Print Assumptions conjugate_weights.
Print Assumptions network_conj.
Print Assumptions one_layer_free.
Print Assumptions run_parallel_skip.
Print Assumptions parallel_global.

(** ** Sublayers with skips of any kind

    State 0 is the embedded input.  Sublayer [k] reads state [k] through [reads k],
    computes an arbitrary [f k], and writes through [writes k]; its skip is the
    matrix [A k], which is 1 for an identity skip. *)
Section Sublayers.
Variables (R : comUnitRingType) (n d : nat) (r c : nat -> nat).
Variable f : forall k, 'M[R]_(n, r k) -> 'M[R]_(n, c k).
Implicit Types (A G : nat -> 'M[R]_d) (reads : forall k, 'M[R]_(d, r k)) (writes : forall k, 'M[R]_(c k, d)).

Fixpoint state A reads writes (X : 'M_(n, d)) k :=
  if k is j.+1 then let h := state A reads writes X j in h *m A j + @f j (h *m reads j) *m writes j else X.

Definition identity_skips : nat -> 'M[R]_d := fun=> 1%:M.

(** The product of the skips from [k] on, [m] of them. *)
Fixpoint skips_from A k m : 'M[R]_d := if m is l.+1 then A k *m skips_from A k.+1 l else 1%:M.

Lemma skips_from_inv A k m : (forall i, (i < k + m)%N -> A i \in unitmx) -> skips_from A k m \in unitmx.
Proof.
elim: m k => [|m IH] k inv /=; first exact: unitmx1.
by rewrite unitmx_mul inv ?addnS ?ltnS ?leq_addr // IH // => i; rewrite addSnnS => /inv.
Qed.

(** H1: a sublayer reads the state itself, no norm of it.  H2: the skips are
    invertible matrices; the product of those still to come is the basis of a state. *)
Theorem learned_skip_removal A reads writes (K v w : nat) (E : 'M_(v, d)) (D : 'M_(d, w)) (tokens : 'M_(n, v)) :
  (forall k, (k < K)%N -> A k \in unitmx) ->
  let later k := skips_from A k (K - k) in
  state identity_skips (fun k => invmx (later k) *m reads k) (fun k => writes k *m later k.+1)
        (tokens *m (E *m later 0%N)) K *m D
  = state A reads writes (tokens *m E) K *m D.
Proof.
move=> A_inv later; rewrite mulmxA; set X := tokens *m E.
suff carried k : (k <= K)%N ->
    state identity_skips (fun k => invmx (later k) *m reads k) (fun k => writes k *m later k.+1) (X *m later 0%N) k
    = state A reads writes X k *m later k.
  by rewrite carried // /later subnn /= mulmx1.
elim: k => [//|k IH] kK /=; rewrite IH ?(ltnW kK) //.
have later_inv : later k \in unitmx by apply: skips_from_inv => i; rewrite subnKC ?(ltnW kK) // => /A_inv.
have laterE : later k = A k *m later k.+1 by rewrite /later -(subnSK kK).
by rewrite basis_cancel // mulmx1 {1}laterE mulmxDl !mulmxA.
Qed.

(** *** All skips are identities: unequal bases serve no longer all weights

    The cores [f] are given; [alive]: core [k] is not zero, some entry of some output
    of its is invertible.  Bases [G 0 .. G K] keep the function, whatever the
    embedded input [X], the reads, the writes and the readout [D], exactly if they
    are equal. *)
Definition alive k := exists (X : 'M_(n, d)) reads i j, @f k (X *m reads k) i j \is a GRing.unit.

Definition keeps_function (G : nat -> 'M[R]_d) K := forall X reads writes w (D : 'M_(d, w)),
  state identity_skips (fun k => invmx (G k) *m reads k) (fun k => writes k *m G k.+1) (X *m G 0%N) K
    *m (invmx (G K) *m D)
  = state identity_skips reads writes X K *m D.
End Sublayers.
Print Assumptions learned_skip_removal.

Section GlobalBasis.
Variables (R : comUnitRingType) (n d : nat) (r c : nat -> nat).
Variable f : forall k, 'M[R]_(n.+1, r k) -> 'M[R]_(n.+1, c k).
Implicit Types G : nat -> 'M[R]_d.

(** Only sublayer [k] writes: the stream is [X] up to there, and constant behind. *)
Definition only k (S : 'M[R]_(c k, d)) j : 'M[R]_(c j, d) :=
  if k =P j is ReflectT kj then castmx (congr1 c kj, erefl) S else 0.

Lemma only_k k S : only S k = S.
Proof. by rewrite /only; case: eqP => // kk; rewrite (eq_irrelevance kk erefl) castmx_id. Qed.

Lemma only_other k j S : k != j -> @only k S j = 0.
Proof. by rewrite /only; case: eqP. Qed.

Lemma silent_state rd wr X k l : (forall j, (k <= j < l)%N -> wr j = 0) -> (k <= l)%N ->
  state f (identity_skips R d) rd wr X l = state f (identity_skips R d) rd wr X k.
Proof.
elim: l => [|l IH] silent; first by rewrite leqn0 => /eqP->.
rewrite leq_eqVlt => /orP[/eqP<- //|kl] /=.
rewrite silent ?leqnn ?andbT // mulmx0 addr0 mulmx1 IH // => j /andP[kj jl].
by apply: silent; rewrite kj ltnW.
Qed.

(** A matrix whose products with an output that is not zero all vanish is zero. *)
Lemma alive_separates k (Z : 'M[R]_(n.+1, c k)) i j (A B : 'M[R]_d) : Z i j \is a GRing.unit ->
  (forall S, Z *m S *m A = Z *m S *m B) -> A = B.
Proof.
move=> unit_ij same; apply/matrixP=> a b.
have entry M : (Z *m delta_mx j a *m M) i b = Z i j * M a b.
  by rewrite -(mul_delta_mx (0 : 'I_1)) mulmxA -colE -mulmxA -rowE mxE big_ord1 !mxE.
by have := congr1 (fun M : 'M_(n.+1, d) => M i b) (same (delta_mx j a)); rewrite !entry => /(mulrI unit_ij).
Qed.

Theorem global_basis_only G K :
  (forall k, (k <= K)%N -> G k \in unitmx) -> (forall k, (k < K)%N -> alive d f k) ->
  keeps_function f G K <-> forall k, (k <= K)%N -> G k = G 0%N.
Proof.
move=> G_inv f_alive; split=> [keeps|equal X rd wr w D]; last first.
  have carried k : (k <= K)%N ->
    state f (identity_skips R d) (fun k => invmx (G k) *m rd k) (fun k => wr k *m G k.+1) (X *m G 0%N) k
    = state f (identity_skips R d) rd wr X k *m G k.
    elim: k => [//|k IH] kK /=; rewrite IH ?(ltnW kK) // basis_cancel ?G_inv ?(ltnW kK) //.
    by rewrite !mulmx1 mulmxDl (equal k.+1) // (equal k) ?(ltnW kK) // mulmxA.
  by rewrite carried // basis_cancel // G_inv.
have ends : G 0%N = G K.    (* nobody writes *)
  suff: G 0%N *m invmx (G K) = 1%:M.
    by move/(congr1 (mulmx^~ (G K))); rewrite mulmxKV ?G_inv // mul1mx.
  apply: (@mulmx_ext _ n) => X; have := keeps X (fun=> 0) (fun=> 0) _ 1%:M.
  rewrite !(@silent_state _ _ _ 0%N K) //; first by rewrite !mulmx1 mulmxA.
  by move=> j _; rewrite mul0mx.
elim=> [//|k IH] kK; have Gk := IH (ltnW kK).   (* only sublayer k writes *)
have [X [rd [i [j unit_ij]]]] := f_alive _ kK.
apply: (alive_separates unit_ij) => S.
have := keeps X rd (only S) _ (G K); rewrite mulVmx ?G_inv // mulmx1.
rewrite !(@silent_state _ _ _ k.+1 K) //=; last 2 first.
- by move=> l /andP[kl _]; rewrite only_other // ltn_eqF.
- by move=> l /andP[kl _]; rewrite only_other ?mul0mx // ltn_eqF.
rewrite !(@silent_state _ _ _ 0%N k) //=; last 2 first.
- by move=> l lk; rewrite only_other // gtn_eqF.
- by move=> l lk; rewrite only_other ?mul0mx // gtn_eqF.
by rewrite /identity_skips Gk basis_cancel ?G_inv // only_k !mulmx1 -ends mulmxDl mulmxA => /addrI.
Qed.
End GlobalBasis.
Print Assumptions global_basis_only.

(** ** Two bases: encoder and decoder

    A layer of the decoder: self-attention, attention to the encoder's output (the
    memory), MLP, each with its skip.  [row_self], [row_cross] and [row_mlp] are the
    biases of the three writes; those of the reads may be part of the cores. *)
Section EncoderDecoder.
Variables (R : comUnitRingType) (n m d dz : nat).
Implicit Types (T : 'M[R]_d) (F : 'M[R]_dz).

Record decoder_layer := DecoderLayer {
  wide_q : nat;  wide_k : nat;  wide_v : nat;  wide_e : nat;    (* of the self-attention *)
  far_q : nat;  far_k : nat;  far_v : nat;  far_e : nat;        (* of the cross-attention *)
  wide_up : nat;  wide_down : nat;
  self : attention R n n d d wide_q wide_k wide_v wide_e d;  row_self : 'rV[R]_d;
  far : attention R n m d dz far_q far_k far_v far_e d;  row_cross : 'rV[R]_d;
  hidden : 'M[R]_(n, wide_up) -> 'M[R]_(n, wide_down);
  up : 'M[R]_(d, wide_up);  down : 'M[R]_(wide_down, d);  row_mlp : 'rV[R]_d }.

Definition run_decoder_layer l (Z : 'M_(m, dz)) X :=
  let Y := X + (mha (self l) X + ones *m row_self l) in
  let C := Y + (cross (far l) Y Z + ones *m row_cross l) in
  C + (@hidden l (C *m up l) *m down l + ones *m row_mlp l).

(** The stream of the decoder has the basis [T], the memory the basis [F]. *)
Definition conjugate_decoder T F l :=
  DecoderLayer (Attention (core (self l)) (invmx T *m W_Q (self l)) (invmx T *m W_K (self l))
                          (invmx T *m W_V (self l)) (W_O (self l) *m T)) (row_self l *m T)
               (Attention (core (far l)) (invmx T *m W_Q (far l)) (invmx F *m W_K (far l))
                          (invmx F *m W_V (far l)) (W_O (far l) *m T)) (row_cross l *m T)
               (@hidden l) (invmx T *m up l) (down l *m T) (row_mlp l *m T).

Lemma conjugate_decoder_run T F l Z X : T \in unitmx -> F \in unitmx ->
  run_decoder_layer (conjugate_decoder T F l) (Z *m F) (X *m T) = run_decoder_layer l Z X *m T.
Proof.
move=> T_inv F_inv; rewrite /run_decoder_layer /mha /cross /= !basis_cancel // !(mulmxA _ _ T) -!mulmxDl.
by rewrite !basis_cancel // -!mulmxDl !basis_cancel // -!mulmxDl.
Qed.

(** One matrix in each half: with [T] a query projection of a decoder layer, and [F]
    the key or the value projection of a cross-attention, both become identities. *)
Lemma two_identities T F l :
  [/\ square (W_Q (far l)) = T -> T \in unitmx -> square (W_Q (far (conjugate_decoder T F l))) = 1%:M,
      square (W_Q (self l)) = T -> T \in unitmx -> square (W_Q (self (conjugate_decoder T F l))) = 1%:M,
      square (W_K (far l)) = F -> F \in unitmx -> square (W_K (far (conjugate_decoder T F l))) = 1%:M
    & square (W_V (far l)) = F -> F \in unitmx -> square (W_V (far (conjugate_decoder T F l))) = 1%:M].
Proof. by split=> <- inv; apply: square_becomes_one. Qed.

Definition run_decoder Z := foldl (fun X l => run_decoder_layer l Z X).

(** The encoder is a list of stages without norms, with any skips. *)
Theorem encoder_decoder_two_bases v w (E : 'M_(v, dz)) (P : 'M_(m, dz)) (encoder : seq (stage R m dz))
    (E' : 'M_(v, d)) (P' : 'M_(n, d)) decoder (U : 'M_(d, w)) T F source target :
  each (@no_norm R m dz) encoder -> T \in unitmx -> F \in unitmx ->
  let memory := run_stages (source *m E + P) encoder in
  let memory' := run_stages (source *m (E *m F) + P *m F) [seq conjugate F s | s <- encoder] in
  run_decoder memory' (target *m (E' *m T) + P' *m T) [seq conjugate_decoder T F l | l <- decoder] *m (invmx T *m U)
  = run_decoder memory (target *m E' + P') decoder *m U.
Proof.
move=> unnormed T_inv F_inv memory memory'.
have -> : memory' = memory *m F.
  rewrite /memory' /memory {memory memory'} mulmxA -mulmxDl; elim: encoder unnormed (_ + _) => [|s ls IH] //= [un uns] X.
  by rewrite conjugate_run // IH.
rewrite mulmxA -mulmxDl.
have -> X : run_decoder (memory *m F) (X *m T) [seq conjugate_decoder T F l | l <- decoder]
          = run_decoder memory X decoder *m T.
  by elim: decoder X => [|l ls IH] X //=; rewrite conjugate_decoder_run // IH.
by rewrite basis_cancel.
Qed.
End EncoderDecoder.
Print Assumptions conjugate_decoder_run.
Print Assumptions two_identities.
Print Assumptions encoder_decoder_two_bases.
