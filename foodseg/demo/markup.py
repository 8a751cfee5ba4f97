"""What was computed, as HTML: cards of answers, of completions, and of logged completions.

Models and users write the words: every one of them is escaped.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from itertools import groupby

from PIL import Image

from foodseg.data.samples import Sample
from foodseg.demo.ask import MOST, TERMS, Judgement, Refusal, Reply
from foodseg.demo.group import Completion, SeenGroup, verdict
from foodseg.demo.pictures import data_uri, over_photo
from foodseg.report.style import TRUTH
from foodseg.segment.written import NOT_PARSED

FULL_COLOUR = 2.0  # the advantage from which on a token's colour gets no stronger
CSS = """
.food-cards {display: grid; gap: 14px; margin-top: 10px;
  grid-template-columns: repeat(auto-fill, minmax(222px, 1fr))}
.food-card {border: 1px solid var(--border-color-primary); border-radius: 10px; overflow: hidden;
  background: var(--background-fill-primary); color: var(--body-text-color); font-size: 14px}
.food-card img {width: 100%; display: block}
.food-photo {max-width: 100%; max-height: 260px; border-radius: 10px}
.food-plates .grid-container {
  grid-template-columns: repeat(auto-fill, minmax(84px, 1fr)) !important}
.food-card > header {display: flex; justify-content: space-between; gap: 8px; padding: 8px 12px;
  font-weight: 600}
.food-card > header span + span {white-space: nowrap}
.food-card > div {padding: 8px 12px; line-height: 1.45}
.food-card pre {white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12px; margin: 4px 0}
.food-text {font-family: ui-monospace, monospace; font-size: 12px; overflow-wrap: anywhere;
  white-space: pre-wrap; max-height: 190px; overflow-y: auto; padding: 0 12px 10px}
.food-terms {display: flex; flex-wrap: wrap; gap: 4px}
.food-terms span {border-radius: 9px; padding: 1px 8px; font-size: 12px; white-space: nowrap}
.food-full {background: #009E73; color: white} .food-part {background: #E69F00; color: #222}
.food-none {border: 1px solid #8A8A8A}
.food-quiet {opacity: 0.75; font-size: 13px}
.food-warning {border-left: 4px solid #E69F00; padding: 4px 10px; color: var(--body-text-color)}
.food-fault {border-left: 4px solid #D55E00; padding: 4px 10px; color: var(--body-text-color)}
.food-bar {height: 6px; background: var(--border-color-primary); position: relative}
.food-bar i {position: absolute; top: 0; bottom: 0}
"""


def cards(parts: Sequence[str]) -> str:
    """Cards beside one another, as many as fit."""
    return f'<div class="food-cards">{"".join(parts)}</div>'


def note(text: str, kind: str = "quiet") -> str:
    """A sentence; kind: quiet, warning or fault. "" for none."""
    return f'<div class="food-{kind}">{escape(text)}</div>' if text else ""


def photo(image: Image.Image) -> str:
    """The photo that is asked about."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=90)
    return f'<img class="food-photo" alt="the photo" src="{data_uri(buffer.getvalue())}">'


def truth_card(photo: Image.Image, sample: Sample) -> str:
    """What is right: the true mask and references, the foods, the data's own answer."""
    picture = over_photo((photo, sample.union_mask(), sample.references), TRUTH)
    words = f"<b>{escape(', '.join(sample.foods) or 'nothing here')}</b><br>{escape(sample.answer)}"
    return _card("the truth", "", picture, f"<div>{words}</div>")


def reply_card(reply: Reply | Refusal) -> str:
    """One system's answer: picture, words, points, and all that it wrote."""
    if isinstance(reply, Refusal):
        return _card(reply.name, "", None, f"<div>{note(reply.why, 'fault')}</div>")
    answer = reply.answer
    words = escape(answer.thinking) if answer.parsed else note(NOT_PARSED.capitalize() + ".")
    iou = f"IoU {reply.judgement.iou:.2f}" if reply.judgement else ""
    points = ""
    if reply.judgement:
        reward = f"reward {reply.judgement.total:.2f} of {MOST}"
        points = f"<div>{reward}{_terms(reply.judgement)}</div>"
    seconds = sum(value for phase, value in answer.seconds.items() if phase != "load")
    written = f"<details><summary>what it wrote</summary><pre>{escape(answer.text)}</pre></details>"
    below = f"<div>{written}{note(f'{seconds:.2f} seconds')}</div>"
    picture = over_photo((answer.photo.image, answer.mask, answer.references))
    return _card(reply.name, iou, picture, f"<div>{words}</div>{points}{below}")


def group_cards(group: SeenGroup) -> str:
    """What becomes of the group, and a card for each of its completions."""
    kind = "quiet" if group.kept else "warning"
    parts = [_completion_card(i, c, group) for i, c in enumerate(group.completions, 1)]
    legend = (
        "Under each picture: GRPO's and DAPO's advantage, one for the whole completion. Behind "
        "each token: SD-GRPO's, green where it becomes more probable, orange where less."
    )
    above = f"<h3>{escape(group.sample.question)}</h3>{note(verdict(group), kind)}{note(legend)}"
    return above + cards(parts)


def _completion_card(number: int, completion: Completion, group: SeenGroup) -> str:
    picture = over_photo((group.image, completion.mask, completion.references), width=2.8)
    total = completion.judgement.total
    state = completion.fault or f"parses, IoU {completion.judgement.iou:.2f}"
    words = f"reward {total:.2f} of {MOST}, advantage <b>{completion.advantage:+.2f}</b>"
    body = (
        f"{_bar(completion.advantage)}<div>{words}<br>{escape(state)}</div>"
        f"<div>{_terms(completion.judgement)}</div>"
        f'<section class="food-text">{_coloured(completion.tokens)}</section>'
    )
    return _card(f"completion {number}", "" if group.kept else "dropped by DAPO", picture, body)


def example_cards(examples: Sequence[dict]) -> str:
    """Logged completions, each with its step, its question and the step's mean reward."""
    parts = []
    for row in examples:
        mean = note(f"mean reward of the step: {row['reward_total']:.2f} of {MOST}")
        body = (
            f"<div><i>{escape(str(row['question']))}</i>{mean}</div>"
            f'<section class="food-text">{escape(str(row["completion"]))}</section>'
        )
        parts.append(_card(f"step {row['step']}", "", None, body))
    return cards(parts)


def _card(title: str, aside: str, picture: bytes | None, body: str) -> str:
    image = f'<img alt="{escape(title)}" src="{data_uri(picture)}">' if picture else ""
    head = f"<header><span>{escape(title)}</span><span>{escape(aside)}</span></header>"
    return f'<article class="food-card">{head}{image}{body}</article>'


def _terms(judgement: Judgement) -> str:
    lights = []
    for name, (title, most) in TERMS.items():
        points = judgement.points[name]
        kind = "full" if points >= most else "part" if points > 0 else "none"
        lights.append(f'<span class="food-{kind}">{title} {points:.3g}/{most}</span>')
    return f'<div class="food-terms">{"".join(lights)}</div>'


def _bar(advantage: float) -> str:
    """From the middle to the right for a positive advantage, to the left for a negative one."""
    share = 50 * min(abs(advantage) / FULL_COLOUR, 1)
    side, colour = ("left", "#009E73") if advantage > 0 else ("right", "#D55E00")
    place = f"{side}:50%;width:{share:.1f}%;background:{colour}"
    return f'<section class="food-bar"><i style="{place}"></i></section>'


def _coloured(tokens: Sequence[tuple[str, float]]) -> str:
    parts = []
    for advantage, pairs in groupby(tokens, key=lambda pair: pair[1]):
        text = escape("".join(text for text, _ in pairs))
        opacity = 0.55 * min(abs(advantage) / FULL_COLOUR, 1)
        colour = "0,158,115" if advantage > 0 else "213,94,0"
        style = f"background:rgba({colour},{opacity:.2f})"
        parts.append(f'<span style="{style}" title="{advantage:+.2f}">{text}</span>')
    return "".join(parts)
