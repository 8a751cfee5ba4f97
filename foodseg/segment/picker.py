"""A notebook widget to ask about a photo: a list, an upload, a text field, and the answer."""

from __future__ import annotations

import html
import io
import os
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets
from IPython.display import display

from foodseg.common.errors import DataError
from foodseg.data.photos import Photo, read_photo
from foodseg.data.samples import Sample
from foodseg.segment.answer import System, segment
from foodseg.segment.picture import picture_png
from foodseg.segment.written import describe

WIDE = widgets.Layout(width="660px")


class Picker:
    """The widgets and what they do; display `view`.

    samples: the list offers their photos, and suggests their questions; folder: the dataset's, in
    which the photos are. An uploaded photo is asked about until another is picked.
    """

    def __init__(self, system: System, samples: Sequence[Sample], folder: Path):
        self.system, self.folder = system, folder
        self.questions: dict[str, list[str]] = {}
        for sample in samples:
            self.questions.setdefault(sample.image, []).append(sample.question)
        names = [(Path(image).name, image) for image in self.questions]
        self.photo = widgets.Dropdown(options=names, description="photo")
        self.upload = widgets.FileUpload(accept="image/*", description="your own")
        self.question = widgets.Combobox(
            description="question", ensure_option=False, continuous_update=False, layout=WIDE
        )
        self.ask = widgets.Button(description="ask", button_style="primary")
        self.picture = widgets.Image(format="png", layout=WIDE)
        self.words = widgets.HTML()
        above = widgets.HBox([self.photo, self.upload])
        self.view = widgets.VBox([above, self.question, self.ask, self.words, self.picture])
        self.photo.observe(lambda _: self._picked(), "value")
        self.upload.observe(lambda _: self._uploaded(), "value")
        self.ask.on_click(lambda _: self._answer())
        self._picked()

    def _picked(self) -> None:
        self.upload.value = ()
        questions = self.questions[self.photo.value]
        self.question.options, self.question.value = questions, questions[0]
        self._show_photo()

    def _uploaded(self) -> None:
        if self.upload.value:
            self._show_photo()

    def _show_photo(self) -> None:
        self._say("")
        try:
            image = self._read().image.copy()
            image.thumbnail((660, 660))
            buffer = io.BytesIO()
            image.save(buffer, format="PNG")
            self.picture.value = buffer.getvalue()
        except DataError as error:
            self._say(str(error))

    def _read(self) -> Photo:
        if not self.upload.value:
            return read_photo(self.folder / self.photo.value)
        file = io.BytesIO(self.upload.value[0]["content"])
        file.name = self.upload.value[0]["name"]
        return read_photo(file)

    def _answer(self) -> None:
        self.ask.disabled = True
        try:
            answer = segment(self.system, self._read(), self.question.value)
            self.picture.value = picture_png(answer)
            self._say(describe(answer))
        except DataError as error:
            self._say(str(error))
        finally:
            self.ask.disabled = False

    def _say(self, text: str) -> None:
        # The model's own words and a file's name: neither may pass for HTML.
        self.words.value = f"<pre style='white-space: pre-wrap'>{html.escape(text)}</pre>"


def show_picker(system: System, samples: Sequence[Sample], folder: Path) -> None:
    """Show the picker below the cell, or a sentence where the notebook runs headlessly."""
    if "FOODSEG_HEADLESS" in os.environ:  # set by foodseg.common.run_notebook
        print("In Jupyter (`make lab`), a list of photos and a text field stand here.")
    else:
        display(Picker(system, samples, folder).view)
