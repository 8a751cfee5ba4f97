"""The page: three tabs that lay out what the other modules compute. The only one that needs gradio.

Events that ask a model wait for one another (`Systems`); faults of the user's are said in a line.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from foodseg.common.errors import DataError
from foodseg.data.photos import Photo
from foodseg.demo import markup, training
from foodseg.demo.ask import Reply, all_as_json, ask
from foodseg.demo.group import GROUP_SIZE, sample_group
from foodseg.demo.pictures import data_uri, side_by_side
from foodseg.demo.systems import BASE, Systems
from foodseg.demo.uploads import read_upload
from foodseg.segment.plates import Plate, unseen_words, warn_of_words

REFRESH = 2  # seconds between two looks at a run's log
PREVIEW = 560  # pixels, the longest side of the photo that is asked about
Source = int | str  # a plate's place in the list, or the file of the user's photo

# No font, script or picture comes from elsewhere; a browser refuses what gradio might ask for.
_POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
THEME = gr.themes.Default(
    primary_hue="emerald",
    font=("system-ui", "sans-serif"),
    font_mono=("ui-monospace", "monospace"),
)


class Page:
    """The page of a preset; `blocks` is gradio's. folder: of the files that it hands out."""

    def __init__(
        self, systems: Systems, plates: list[Plate], vocabulary: frozenset[str], folder: str
    ):
        self.folder = folder
        self.systems, self.plates, self.vocabulary = systems, plates, vocabulary
        self.preset = systems.preset
        thumbnails = [plate.thumbnail() for plate in plates]
        with gr.Blocks(title="foodseg", analytics_enabled=False) as page:
            gr.Markdown(f"## Ask about food, preset {self.preset.name}")
            with gr.Tab("Ask"):
                self._ask_tab(thumbnails)
            with gr.Tab("What reinforcement sees"):
                self._group_tab(thumbnails)
            with gr.Tab("Training"):
                self._training_tab()
        self.blocks = page

    def launch(self, host: str, port: int | None) -> str:
        """Serve the page from a thread of its own; returns its address.

        port: the first free one from 7860 on if None. Raises OSError if it is taken.
        """
        _, address, _ = self.blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            ssr_mode=False,
            prevent_thread_lock=True,
            quiet=True,
            theme=THEME,
            css=markup.CSS,
            footer_links=[],
            app_kwargs={"middleware": [Middleware(_OnlyFromHere)]},
        )
        return address

    # -- Ask ------------------------------------------------------------------------------------

    def _ask_tab(self, thumbnails: list) -> None:
        source, plate = gr.State(0), self.plates[0]
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                gallery = _gallery(thumbnails, "plates")
                with gr.Row():
                    upload = gr.UploadButton("A photo of your own", size="sm", elem_id="upload")
                    show = gr.Button("Camera", size="sm", elem_id="camera-button")
                camera = gr.Image(
                    sources=["webcam"], type="filepath", image_mode=None, visible=False,
                    show_label=False, elem_id="camera",
                )  # fmt: skip
                preview = gr.HTML(_preview(plate.photo()), padding=False)
            with gr.Column(scale=3, min_width=320):
                own = gr.Radio(
                    plate.questions, value=plate.questions[0], label="This plate's own questions"
                )
                question = gr.Textbox(plate.questions[0], label="Question", elem_id="question")
                warning = gr.HTML(padding=False)
                choice = gr.CheckboxGroup(label="Systems", elem_id="systems")
                button = gr.Button("Ask", variant="primary", elem_id="ask")
        answers = gr.HTML(elem_id="answers", padding=False)
        with gr.Row():
            png = gr.DownloadButton("PNG", size="sm", interactive=False, elem_id="png")
            words = gr.DownloadButton("JSON", size="sm", interactive=False, elem_id="json")
        chosen = [source, preview, own, question, answers]
        gallery.select(self._pick, None, chosen)
        upload.upload(self._take, upload, chosen)
        camera.change(self._take, camera, chosen)
        show.click(lambda: gr.Image(visible=True), None, camera)
        own.input(lambda text: text, own, question)
        question.input(lambda: None, None, own)
        question.change(self._warn, question, warning, show_progress="hidden")
        asked = [source, question, choice]
        gr.on([button.click, question.submit], self._ask, asked, [answers, png, words])
        gr.on(None, self._find_systems, None, choice)

    def _find_systems(self):
        return gr.CheckboxGroup(self.systems.names(), value=self.systems.first())

    def _pick(self, event: gr.SelectData):
        plate = self.plates[event.index]
        questions = gr.Radio(plate.questions, value=plate.questions[0], visible=True)
        return event.index, _preview(plate.photo()), questions, plate.questions[0], ""

    def _take(self, path: str | None):
        if path is None:  # the camera's picture was thrown away
            return [gr.skip()] * 5
        try:
            photo = read_upload(path)
        except DataError as error:
            return (*[gr.skip()] * 4, markup.note(str(error), "fault"))
        return path, _preview(photo), gr.Radio([], visible=False), gr.skip(), ""

    def _warn(self, question: str) -> str:
        return markup.note(warn_of_words(unseen_words(question, self.vocabulary)), "warning")

    def _ask(self, source: Source, question: str, names: list[str]) -> Iterator[tuple]:
        off = gr.DownloadButton(interactive=False)
        try:
            if not names:
                raise DataError("systems: none is chosen; choose one or more.")
            plate = self.plates[source] if isinstance(source, int) else None
            photo = plate.photo() if plate else read_upload(source)
            sample = plate.sample(question) if plate else None
            parts = [markup.truth_card(photo.image, sample)] if sample else []
            replies = []
            for reply in ask(self.systems, names, photo, question, sample):
                replies.append(reply)
                parts.append(markup.reply_card(reply))
                yield markup.cards(parts), off, off
        except DataError as error:
            yield markup.note(str(error), "fault"), off, off
            return
        if not any(isinstance(reply, Reply) for reply in replies):
            return
        files = self._save(
            {
                "answers.png": side_by_side(photo.image, replies, sample),
                "answers.json": json.dumps(all_as_json(replies, sample), indent=2).encode(),
            }
        )
        yield gr.skip(), *(gr.DownloadButton(value=file, interactive=True) for file in files)

    def _save(self, contents: dict[str, bytes]) -> list[str]:
        """Files to download, in a folder of their own."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        return [str(folder / name) for name in contents]

    # -- What reinforcement sees ------------------------------------------------------------------

    def _group_tab(self, thumbnails: list) -> None:
        index, plate = gr.State(0), self.plates[0]
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                gallery = _gallery(thumbnails, "group-plates")
                preview = gr.HTML(_preview(plate.photo()), padding=False)
            with gr.Column(scale=3, min_width=320):
                question = gr.Radio(plate.questions, value=plate.questions[0], label="Question")
                system = gr.Dropdown([BASE], value=BASE, label="System", elem_id="system")
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31)
                text = f"Sample {GROUP_SIZE} completions"
                button = gr.Button(text, variant="primary", elem_id="sample")
        shown = gr.HTML(elem_id="group", padding=False)
        gallery.select(self._pick_for_group, None, [index, preview, question, shown])
        button.click(self._sample, [index, question, system, seed], shown)
        gr.on(None, lambda: gr.Dropdown(self.systems.names()), None, system)

    def _pick_for_group(self, event: gr.SelectData):
        plate = self.plates[event.index]
        questions = gr.Radio(plate.questions, value=plate.questions[0])
        return event.index, _preview(plate.photo()), questions, ""

    def _sample(self, index: int, question: str, system: str, seed: int) -> str:
        plate = self.plates[index]
        try:
            group = sample_group(self.systems, system, plate, plate.sample(question), int(seed))
        except DataError as error:
            return markup.note(str(error), "fault")
        return markup.group_cards(group)

    # -- Training ---------------------------------------------------------------------------------

    def _training_tab(self) -> None:
        drawn, timer = gr.State(), gr.Timer(REFRESH)
        run = gr.Dropdown([], label="Run, the last written first", elem_id="run")
        state = gr.HTML(elem_id="state", padding=False)
        curves = gr.HTML(elem_id="curves", padding=False)
        examples = gr.HTML(elem_id="examples", padding=False)
        shown = [run, drawn, state, curves, examples]
        gr.on([timer.tick, run.input], self._refresh, [run, drawn], shown, show_progress="hidden")

    def _refresh(self, run: str | None, drawn):
        try:
            runs = training.list_runs(self.preset)
            if not runs:
                text = "No run has logged a step yet; `make` trains GRPO and DAPO."
                return gr.skip(), None, markup.note(text), "", ""
            run = run if run in runs else runs[0]
            log = training.find_log(self.preset, run)
            now = runs, run, training.state_of(log)
            rows = training.read_log(log)
            state = markup.note(training.describe_run(log, rows))
            if now == drawn:
                return gr.skip(), drawn, state, gr.skip(), gr.skip()
            picture = data_uri(training.curves_png(run, rows), "png")
            curves = f'<img alt="curves" src="{picture}" style="max-width:100%">'
            return (
                gr.Dropdown(runs, value=run),
                now,
                state,
                curves,
                markup.example_cards(training.examples(rows)),
            )
        except DataError as error:
            return gr.skip(), None, markup.note(str(error), "fault"), "", ""


class _OnlyFromHere:
    """Adds the policy to every answer of the server."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def with_policy(message):
            if message["type"] == "http.response.start":
                message["headers"].append((b"content-security-policy", _POLICY))
            await send(message)

        await self.app(scope, receive, with_policy)


def _gallery(thumbnails: list, name: str) -> gr.Gallery:
    return gr.Gallery(
        thumbnails, elem_id=name, elem_classes="food-plates", show_label=False, height=230,
        object_fit="cover", allow_preview=False, interactive=False, buttons=[],
    )  # fmt: skip


def _preview(photo: Photo) -> str:
    image = photo.image.copy()
    image.thumbnail((PREVIEW, PREVIEW))
    return markup.photo(image)
