"""`python -m foodseg.claims`: run what the claims need, and write figures/claims.{md,csv,png}.

python -m foodseg.claims                all claims (hours; goes on where it stopped)
python -m foodseg.claims tiers-0.8      what one claim needs; its verdict is printed
python -m foodseg.claims --only-write   the page from the runs that have ended
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial

from foodseg.ablations.rows import choose_rows
from foodseg.ablations.run_all import run_all
from foodseg.ablations.runs import Runs, runs_of
from foodseg.claims.claim import Claim
from foodseg.claims.field import CLAIMS, claimed_rows
from foodseg.claims.frame import claims_frame
from foodseg.claims.outputs import readable, write_claims
from foodseg.claims.rule import SEEDS
from foodseg.common.errors import DataError
from foodseg.common.progress import tqdm
from foodseg.common.tables import to_markdown
from foodseg.presets import get_preset, parse_seeds


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0; 1 if a run failed or the input can't be used; 130 after Ctrl-C."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    show = None
    try:
        runs, seeds = Runs(get_preset(options.preset)), parse_seeds(options.seeds)
        claims = choose_claims(options.claims)
        show = partial(_show, runs, seeds, claims)
        failed = [] if options.only_write else make_runs(runs, seeds, claims, options.jobs, show)
    except DataError as error:
        print(f"claims: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if show:
            show()
        print("claims: interrupted; start it again to go on.", file=sys.stderr)
        return 128 + signal.SIGINT
    show()
    return int(bool(failed))


def make_runs(
    runs: Runs,
    seeds: Sequence[int],
    claims: Sequence[Claim],
    jobs: int | None,
    show: Callable[..., None],
) -> list:
    """Execute what these claims need; returns the runs to be tried again.

    What is finished is left alone; show: called after each seed.
    """
    names = claimed_rows(tuple(claims))
    wanted = runs_of(choose_rows(",".join(names)), seeds) if names else []
    failed = run_all(runs, wanted, jobs, after_seed=show)
    return [run for run in failed if runs.outcome(run).get("again")]


def _show(runs: Runs, seeds: Sequence[int], claims: Sequence[Claim], *_) -> None:
    """Write the page of all claims; of some alone, print them: the page has the others, too."""
    frame = claims_frame(runs, seeds, claims)
    whole = len(claims) == len(CLAIMS)
    tqdm.write(write_claims(runs, frame) if whole else to_markdown(readable(frame)))


def choose_claims(names: Sequence[str]) -> list[Claim]:
    """The claims of those names, all for none; DataError for a name that no claim has."""
    known = {claim.name: claim for claim in CLAIMS}
    for name in names:
        if name not in known:
            raise DataError(f"{name!r} is no claim; use some of {', '.join(known)}.")
    return [known[name] for name in names] or list(CLAIMS)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="python -m foodseg.claims")
    parser.description = "Run what the claims need, and write their page."
    parser.add_argument("claims", nargs="*", help="names of claims (default: all)")
    parser.add_argument("--seeds", default=",".join(map(str, range(SEEDS))))
    parser.add_argument("--preset", default="kitchen")
    parser.add_argument("--jobs", type=int, help="runs at once (default: one for each core)")
    parser.add_argument("--only-write", action="store_true", help="run nothing")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
