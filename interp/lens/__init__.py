"""What each block has decided so far, and what each adds to the logit of a chosen token.

`lens` is the logit lens (nostalgebraist 2020; Belrose et al., arXiv 2303.08112): the stream leaving
every block is read as if the model ended there. `contributions` is direct logit attribution (Elhage
et al. 2021): it splits a logit into what each block, its attention and its MLP add.
docs/internals.md has the equations, shapes and memory.

Steps: row s of a chain is the position that CHOSE generated token s; in a plain sequence of ids it
is position s, which chose token s + 1. An event is a set of steps: for each chain a boolean mask
[S] or the step numbers. A target is a token id, a set of ids, or for each chain one id per step
([S], -1 where there is none); "chosen", the token that was chosen, is always there.

Caveats: chains are read with `variant`, or else by the model as it is; the variant that wrote them
is not applied. The lens is biased where early blocks write in another basis than the last. A direct
contribution is no effect: it omits what a block does through later blocks, at a fixed norm scale.
"""

from interp.lens.attribution import PARTS, Contributions, contributions
from interp.lens.logit import EMBEDDING, Lens, lens
from interp.lens.read_positions import NO_TOKEN, Events, Places
from interp.lens.targets import CHOSEN, Target
