"""The command that shows a study's chains."""

from __future__ import annotations

from typing import Any, ClassVar

from interp.errors import UserError
from interp.plumbing.command_line import (
    CodeOptions,
    File,
    Flag,
    Lines,
    Number,
    Settings,
    Word,
    command,
)
from prunescope import progress
from prunescope.commands.options import FolderOptions
from prunescope.commands.output import Command, Result


@command
class View(Command, FolderOptions, CodeOptions):
    """Look at the chains of a study in a browser, on this machine only.

    Filter, search, read a chain with its loops, reflections and wrong steps marked, and set a
    variant beside the dense model. Nothing is changed. Ctrl-C ends it.

    prunescope view studies/testbed

    prunescope view studies/testbed --where variant="skip 11" loop=exact --export looping.html
    """

    ENTRIES: ClassVar = {
        "page": "with --export: the HTML file",
        "address": "without it: where the viewer is served; the object comes before it is",
        "chains": "number of chains that are shown",
    }
    where: Settings = ()
    """Only these chains: benchmark, problem, variant, block, budget, sample, verdict, ending,
    thinking, loop or wrong (a wrong step); several values of one joined by "|"."""
    search: Word = None
    """Only chains whose text holds these words, or this "phrase" in double quotes."""
    measure: Flag = False
    """Load the model's weights, and compute probability, entropy, Block Influence and KL from dense
    at every token of a chain that is opened."""
    tokenizer: Word = None
    """Folder or Hub name to read the tokenizer from (default: the study's model)."""
    export: File = None
    """Write the selection into this HTML file, which needs no server, and end."""
    no_questions: Flag = False
    """With --export: leave out questions and right answers, for problems that may not be passed on.
    What a chain repeats of its question stays."""
    port: Number = None
    """Port (default 8765, or a free one where that is taken)."""
    open: Flag = False
    """Open it in the browser."""

    def run(self) -> Lines:
        from analyses.plumbing.tokenizer_text import TokenizerText
        from analyses.viewer.links import selection_address
        from analyses.viewer.single_file import write_single_file
        from analyses.viewer.viewed_study import ViewedStudy

        if self.no_questions and self.export is None:
            raise UserError("--no-questions is for --export FILE.html; a served page has them.")
        text = None
        if self.tokenizer is not None:
            text = TokenizerText.of(self.tokenizer, self.trust_remote_code, download=True)
        yield f"Opening {self.study}; a large study takes some seconds."
        with ViewedStudy(
            self.study, text=text, measure=self.measure, trust_remote_code=self.trust_remote_code
        ) as study:
            where, search = self.filters(), self.search or ""
            chosen = study.table.select(where)
            if self.export is not None:
                with progress.bar(total=len(chosen)) as bar:
                    asked = not self.no_questions
                    n = write_single_file(study, self.export, where, search, bar.update, asked)
                size = self.export.stat().st_size / 1e6
                said = f"Page: {self.export} ({n} chains, {size:.1f} MB)"
                yield Result(said, page=str(self.export), chains=n)
                return
            yield from self.served(study, selection_address(where, search))

    def filters(self) -> dict[str, str]:
        """The filters of --where."""
        found: dict[str, str] = {}
        for item in self.where:
            name, equals, value = item.partition("=")
            if not equals or not value:
                raise UserError(f"--where {item!r}: expected NAME=VALUE, such as verdict=wrong.")
            found[name] = value
        return found

    def served(self, study: Any, selection: str) -> Lines:
        """Serves the study until Ctrl-C.

        Args:
            study: the open study.
            selection: where the page begins.
        """
        import webbrowser

        from analyses.viewer.local_server import listening, serve

        study.build_index()
        place = listening(self.port)
        address = f"http://{place.getsockname()[0]}:{place.getsockname()[1]}/{selection}"
        n = len(study.table)
        yield Result(f"Viewer: {address}", last=True, address=address, chains=n)
        yield f"{n} chains; Ctrl-C ends it."
        if self.open:
            webbrowser.open(address)
        serve(study, place)
