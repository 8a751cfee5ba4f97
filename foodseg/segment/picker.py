"""A notebook widget to ask about a photo: thumbnails, an upload, a text field, and the answer."""

from __future__ import annotations

import html
import io
import os
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets
from IPython.display import Image as Picture
from IPython.display import display
from PIL import Image

from foodseg.common.errors import DataError
from foodseg.data.photos import Photo, read_photo
from foodseg.segment.answer import System, segment
from foodseg.segment.picture import picture_png
from foodseg.segment.plates import Plate
from foodseg.segment.written import describe

WIDE = widgets.Layout(width="660px")
AT_ONCE = 6  # thumbnails beside each other
SCREENSHOT = Path(__file__).with_name("picker.png")


class Picker:
    """The widgets and what they do; display `view`.

    plates: AT_ONCE of them are shown as thumbnails, the slider has the others; a plate's own
    questions are suggested. An uploaded photo is asked about until a plate is picked.
    """

    def __init__(self, system: System, plates: Sequence[Plate]):
        self.system, self.plates, self.plate = system, plates, plates[0]
        last = (len(plates) - 1) // AT_ONCE
        self.page = widgets.IntSlider(max=last, description="more plates", continuous_update=False)
        self.strip = widgets.HBox(layout=widgets.Layout(align_items="flex-end"))
        self.upload = widgets.FileUpload(accept="image/*", description="your own")
        self.question = widgets.Combobox(
            description="question", ensure_option=False, continuous_update=False, layout=WIDE
        )
        self.ask = widgets.Button(description="ask", button_style="primary")
        self.picture = widgets.Image(format="png", layout=WIDE)
        self.words = widgets.HTML()
        above = [self.strip, widgets.HBox([self.page, self.upload])]
        self.view = widgets.VBox([*above, self.question, self.ask, self.words, self.picture])
        self.page.observe(lambda _: self._turn(), "value")
        self.upload.observe(lambda _: self._uploaded(), "value")
        self.ask.on_click(lambda _: self._answer())
        self._turn()
        self.pick(self.plate)

    def pick(self, plate: Plate) -> None:
        """Ask about this plate from now on."""
        self.plate, self.upload.value = plate, ()
        self.question.options, self.question.value = plate.questions, plate.questions[0]
        self._show_photo()

    def _turn(self) -> None:
        first = self.page.value * AT_ONCE
        shown = self.plates[first : first + AT_ONCE]
        self.strip.children = [self._thumbnail(plate) for plate in shown]

    def _thumbnail(self, plate: Plate) -> widgets.VBox:
        button = widgets.Button(description="this one", layout=widgets.Layout(width="112px"))
        button.on_click(lambda _: self.pick(plate))
        try:
            return widgets.VBox([widgets.Image(value=_png(plate.thumbnail())), button])
        except DataError as error:  # the others can still be picked
            return widgets.VBox([widgets.Label(str(error)), button])

    def _uploaded(self) -> None:
        if self.upload.value:
            self._show_photo()

    def _show_photo(self) -> None:
        self._say("")
        try:
            image = self._read().image.copy()
            image.thumbnail((660, 660))
            self.picture.value = _png(image)
        except DataError as error:
            self._say(str(error))

    def _read(self) -> Photo:
        if not self.upload.value:
            return self.plate.photo()
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


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def show_picker(system: System, plates: Sequence[Plate]) -> None:
    """Show the picker below the cell, or a picture of it where the notebook runs headlessly."""
    if "FOODSEG_HEADLESS" in os.environ:  # set by foodseg.common.run_notebook
        print(
            "In Jupyter (`make lab`) this can be used. The picture was taken once, with another "
            "training's adapter: its boxes are not those above."
        )
        display(Picture(SCREENSHOT.read_bytes()))
    else:
        display(Picker(system, plates).view)
