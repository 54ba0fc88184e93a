"""Cut the demo's data out of the files that the model run left.

    python tools/cut_demo_data.py lm_logits.npz lm_vocab.json

``lm_logits.npz`` holds ``logits`` float16 (positions, vocabulary), ``targets`` (positions,) and
``context_ids``, the text's tokens up to and including the last position; ``lm_vocab.json`` is the
list of token strings, by id. Ten consecutive positions are kept with every logit of each: with some
classes left out, the sums would be short and the probabilities not the model's. The same input
gives the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import numpy as np

# From "(iii" on, what follows is: ) beneficial ownership of such entity. "You
# Sure guesses, near misses, a tie and two surprises.
FIRST_POSITION = 3
POSITIONS = 10

PACKAGE_DATA = Path(__file__).resolve().parent.parent / "fastsoftmax" / "data"


def cut_logits(source: Path, target: Path) -> None:
    """Write the chosen positions, and the context up to the last of them, to `target`."""
    with np.load(source, allow_pickle=False) as archive:
        logits, targets, context_ids = (archive[name] for name in ("logits", "targets", "context_ids"))
    if not np.array_equal(targets[:-1], context_ids[len(context_ids) - len(targets) + 1 :]):
        raise SystemExit(f"{source}: each target must be the next position's context token")
    stop = FIRST_POSITION + POSITIONS
    np.savez_compressed(
        target,
        logits=logits[FIRST_POSITION:stop],
        targets=targets[FIRST_POSITION:stop],
        context_ids=context_ids[: len(context_ids) - len(targets) + stop],
    )


def cut_tokens(source: Path, target: Path) -> None:
    """Write the token strings to `target` as compressed UTF-8 JSON."""
    tokens = json.loads(source.read_text(encoding="utf-8"))
    text = json.dumps(tokens, ensure_ascii=False, separators=(",", ":"))
    # A time stamp in the header would change the bytes from run to run.
    target.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))


def main() -> None:
    """Read the two files named on the command line and write the package's data."""
    parser = argparse.ArgumentParser(description="Cut the demo's data out of a model run.")
    parser.add_argument("logits", type=Path, help="lm_logits.npz")
    parser.add_argument("vocabulary", type=Path, help="lm_vocab.json")
    parser.add_argument("--output", type=Path, default=PACKAGE_DATA, help="folder to write to")
    arguments = parser.parse_args()
    cut_logits(arguments.logits, arguments.output / "logits.npz")
    cut_tokens(arguments.vocabulary, arguments.output / "tokens.json.gz")


if __name__ == "__main__":
    main()
