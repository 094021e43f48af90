"""The lab: change a rule in a page, and see at once what stays of a real prompt and what both metrics say.

    python -m chunkkv_lib lab my.txt --question "Who wrote it?" --answer "Ada" --output my.html

`codes.py` makes a layer's attention into small codes, `rules.py` chooses from them with the library's compressors,
`data.py` makes a prompt and runs it, `page.py` writes the HTML; the scripts in `assets/` do the same sums in the page.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files import write_text

if TYPE_CHECKING:
    from IPython.display import HTML
    from transformers import PreTrainedModel

MARK = '<div class="lab"'  # in every page of ours


def lab_view(model: PreTrainedModel, tokenizer: Any) -> HTML:
    """The lab of the book, for a notebook: its two open prompts, run through a model now."""
    from IPython.display import HTML

    from ..report.prompt import credit
    from .data import TEXTS_OF, open_prompts, prompt_data
    from .page import LINKS, lab_fragment

    source = credit(TEXTS_OF)
    prompts = [prompt_data(model, tokenizer, one, source)[0] for one in open_prompts(tokenizer)]
    return HTML(lab_fragment(prompts, LINKS))


def write_lab(
    text: str, question: str, answer: str, model: str = "smollm2-135m", output: str | Path = "lab.html"
) -> Path:
    """Write the lab for a text of one's own as one HTML file that opens by a double click, without a network.

    text      up to 4,000 tokens; question and answer about it, of the answer the first two tokens are looked at
    model     as for `load_model`
    return    the file
    raises InputError: an empty or too long text, a file that is not a page of the lab in the output's place, a model
        that is not to be had.
    """
    from ..models import load_model
    from .data import RECORDED, prompt_data, question_about
    from .page import lab_page

    output = Path(output)
    if output.exists() and not (output.is_file() and MARK in output.read_text(encoding="utf-8", errors="replace")):
        raise InputError(f"output={str(output)!r} is there and is no page of the lab; name another file.")
    network, tokenizer = load_model(model)
    sequence = question_about(tokenizer, text, question, answer)
    print(f"running {len(sequence.prompt_ids):,} tokens through {model}, with answers from each cache", file=sys.stderr)
    if not sequence.evidence_spans:
        print("the answer does not stand in the text as it is, so no passage is outlined", file=sys.stderr)
    # The caches of many settings are held at once; those of a long text only where little is kept.
    recorded = [one for one in RECORDED if one.budget <= 10 or len(sequence.prompt_ids) <= 1500]
    data, _ = prompt_data(network, tokenizer, sequence, recorded=recorded)
    page = lab_page([data], "What a compressed KV cache keeps of your text")
    write_text(output, page)
    print(f"{len(page.encode()) / 1e6:.1f} MB, to be opened by a double click", file=sys.stderr)
    return output
