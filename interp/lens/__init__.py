"""What each block has decided so far, and what each adds to the logit of a chosen token.

`lens` is the logit lens (nostalgebraist 2020; Belrose et al., arXiv 2303.08112): the stream
leaving every block is read as if the model ended there,

    logits_l = readout(final_norm(resid_post[l])),

at the positions that chose the tokens of a chain. Row -1 reads the stream entering block 0 (the
embedding); the last row is the model's own output.

`contributions` is direct logit attribution (Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits"). The stream before the final norm is x = embedding + sum_l (attention_l +
mlp_l). With the norm's scale s(x) held at its value, norm(v) = s(x) g (v - c mean(v)) is linear
in v (c = 1 for LayerNorm, 0 for RMSNorm), so the logit of a token t with unembedding u_t is a sum
over what was added to the stream:

    logit_t = constant + sum_v <s(x) g (v - c mean(v)), u_t>.

Gains, centring and bias are read off the norm by feeding it three vectors, and checked on every
position; so RMSNorm, Gemma's (1 + weight), and LayerNorm with bias need no names. Only differences
between logits matter, so by default the mean logit over the vocabulary is taken away (`centred`).
A soft cap of the logits (Gemma 2) is not linear: contributions add up to the logit before it.
Factors that models put on all logits (`logit_scale`, `logits_scaling`) are included.

Steps: row s of a chain is the position that CHOSE generated token s; in a plain sequence of ids
it is position s, which chose token s + 1. An event is a set of steps, as a boolean mask [S] a
chain (or the steps themselves).
Targets: a token id, a set of ids, or for each chain an id a step ([S], -1 where there is none);
"chosen", the token that was chosen, is always there.

Shapes: K positions in all (chains in order, steps rising), R = L + 1 rows, D, V, N chains.
Memory: the streams of one pass at the positions read, [R, k, D], and the logits of one chunk of
positions at one block (and at the last); results take 4 R (2 + 2 targets) bytes a position
(lens), 12 L bytes a position and target (contributions). Name events to read fewer positions.

Caveats: chains are replayed with `variant`, or else with the model as it is: the variant that
wrote a chain is not applied by itself. The lens is biased where early blocks write in another
basis than the last (arXiv 2303.08112). A direct contribution is not an effect: what a block does
through later blocks is not in it, and a scale held fixed does not answer what its removal does.
"""

from interp.lens.attribution import PARTS, Contributions, contributions
from interp.lens.logit import EMBEDDING, Lens, lens
from interp.lens.read_positions import NO_TOKEN, Events, Places
from interp.lens.targets import CHOSEN, Target

__all__ = ["CHOSEN", "EMBEDDING", "NO_TOKEN", "PARTS", "Contributions", "Events", "Lens"]
__all__ += ["Places", "Target", "contributions", "lens"]
