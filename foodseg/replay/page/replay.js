"use strict";
// What the page shows follows from `now` alone: every change sets it and draws again.
const DATA = JSON.parse(document.getElementById("data").textContent);
const SECONDS = 1.5;  // between two stops, while it plays
const now = {run: 0, look: 0, question: 0, method: "", place: null, tried: null, failure: -1};
let timer = null;

const get = id => document.getElementById(id);

/** A new element; what it holds may be words, which are never read as HTML. */
function make(tag, attributes = {}, ...inside) {
  const [name, svg] = [tag.replace("svg:", ""), tag.startsWith("svg:")];
  const one = svg ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") one.addEventListener("click", value);
    else if (value !== false) one.setAttribute(key, value === true ? "" : value);
  }
  one.append(...inside);
  return one;
}
const fill = (id, ...inside) => get(id).replaceChildren(...inside);
const fixed = (value, digits = 2) => value.toFixed(digits);
const signed = value => (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(2);
const short = value => String(Math.round(value * 100) / 100);

const shown = () => DATA.runs[now.run];
const look = () => shown().looks[now.look];
const asked = () => shown().watched[now.question];
const method = () => DATA.methods.find(one => one.name === now.method);
const step = () => shown().groups[look().step];

/** A button of several, of which one is pressed. */
function chooser(words, pressed, press, attributes = {}) {
  return make("button", {type: "button", "aria-pressed": String(pressed), onclick: press,
    ...attributes}, ...[words].flat());
}

// ---- The plate ----------------------------------------------------------------------------------

/** Photo, truth, mask, boxes and points; those that the reward can't read are dashed. */
function plate(id, question, answer) {
  const photo = DATA.photos[DATA.questions[question].photo];
  const images = [make("img", {src: photo.uri, alt: "the plate", width: photo.width,
    height: photo.height})];
  if (answer.mask) images.push(make("img", {src: answer.mask, alt: "the answer's mask", class: "drawn"}));
  images.push(make("img", {src: DATA.questions[question].truth, alt: "the outline of what is asked for"}));
  const over = make("svg:svg", {viewBox: `0 0 ${photo.width} ${photo.height}`, "aria-hidden": "true"});
  for (const [x1, y1, x2, y2, x, y] of answer.references) over.append(...place(x1, y1, x2, y2, x, y, ""));
  for (const [x1, y1, x2, y2, x, y] of answer.meant || []) over.append(...place(x1, y1, x2, y2, x, y, "7 6"));
  fill(id, ...images, over);
}

function place(x1, y1, x2, y2, x, y, dashes) {
  const box = {x: x1, y: y1, width: Math.max(x2 - x1 + 1, 0), height: Math.max(y2 - y1 + 1, 0),
    fill: "none", "stroke-dasharray": dashes};
  const colour = dashes ? "#777777" : "#0072B2";
  return [
    make("svg:rect", {...box, stroke: "white", "stroke-width": 4}),
    make("svg:rect", {...box, stroke: colour, "stroke-width": 2.2}),
    make("svg:circle", {cx: x, cy: y, r: 5.5, fill: colour, stroke: "white", "stroke-width": 2}),
  ];
}

/** What a model wrote, with the part that is read as the answer marked. */
function written(id, text) {
  const found = /<answer>[\s\S]*?<\/answer>/.exec(text);
  if (!found) return fill(id, text || "(nothing)");
  fill(id, text.slice(0, found.index), make("mark", {}, found[0]),
    text.slice(found.index + found[0].length));
}

// ---- The answer over the steps ------------------------------------------------------------------

function when() {
  const {updates} = look(), {steps} = shown();
  if (!updates) return "not trained yet";
  return updates === steps ? `trained: after all ${steps} steps` : `after ${updates} of ${steps} steps`;
}

function drawAnswer() {
  const answer = look().answers[now.question], question = DATA.questions[asked()];
  plate("plate", asked(), answer);
  fill("question", `“${question.question}”`, make("small", {}, `asked for: ${question.foods.join(", ")}`));
  const parts = [make("b", {}, short(answer.reward)), ` of ${DATA.most} points, IoU `,
    make("b", {}, fixed(answer.iou))];
  if (answer.fault) {
    const meant = answer.meant.length ? " The dashed grey box is what it seems to mean." : "";
    parts.push(make("div", {class: "fault"}, `No mask: its form can't be read (${answer.fault}).${meant}`));
  }
  fill("verdict", ...parts);
  fill("lights", ...DATA.terms.map(([, title, most], i) => {
    const points = answer.points[i];
    const kind = points >= most ? "full" : points > 0 ? "part" : "none";
    return make("li", {class: kind}, make("i"), `${title} ${short(points)}/${most}`);
  }));
  written("text", answer.text);
}

function drawTime() {
  const {looks} = shown();
  get("slider").max = looks.length - 1;
  get("slider").value = now.look;
  get("slider").setAttribute("aria-valuetext", when());
  get("when").textContent = when();
  fill("ticks", ...looks.map((one, i) =>
    make("span", i === now.look ? {class: "now"} : {}, String(one.updates))));
  get("play").textContent = timer ? "❚❚" : "▶";
  get("play").setAttribute("aria-label", timer ? "Pause" : "Play");
  drawCurve();
}

/** The mean reward of each step's tries, and where we are. */
function drawCurve() {
  const {curve, steps} = shown(), width = 1000, height = 60;
  const x = index => (index / Math.max(steps - 1, 1)) * width;
  const y = value => height - (value / DATA.most) * height;
  const points = curve.map((value, i) => `${x(i)},${y(value)}`).join(" ");
  const at = x(Math.min(look().updates, steps - 1));
  fill("curve", make("svg:svg", {viewBox: `0 -6 ${width} ${height + 8}`, preserveAspectRatio: "none"},
    make("svg:line", {x1: 0, x2: width, y1: height, y2: height, stroke: "currentColor", opacity: .3}),
    make("svg:polyline", {points, fill: "none", stroke: "var(--bar)", "stroke-width": 2.5,
      "vector-effect": "non-scaling-stroke"}),
    make("svg:line", {x1: at, x2: at, y1: -6, y2: height, stroke: "var(--mask)", "stroke-width": 2.5,
      "vector-effect": "non-scaling-stroke"})),
  make("span", {}, `mean reward of each step's tries, 0 to ${DATA.most}: from ${fixed(curve[0], 1)} ` +
    `to ${fixed(curve.at(-1), 1)}`));
}

// ---- What it learns from ------------------------------------------------------------------------

function drawGroup() {
  const found = step(), place = now.place ?? found.place, group = found.groups[place];
  const own = place === found.place, tries = group.rewards.length;
  const truth = shown().truth && own ? 1 : 0;
  fill("grouphead", `What it learns from at step ${look().step}: ${tries - truth} tries at one ` +
    `question${truth ? ", and the true answer" : ""}`);
  fill("groupquestion", ...(own
    ? [`“${found.question}”`, make("small", {}, `asked for: ${found.foods.join(", ")}`)]
    : [`Group ${place + 1} of the step`, make("small", {}, "the log has its rewards alone")]));
  fill("methods", make("span", {}, "In the hands of"), ...DATA.methods.map(one =>
    chooser(one.title, one.name === now.method, () => change({method: one.name}))));
  const [low, high] = method().clip.map(value => fixed(value));
  fill("rule", method().drops
    ? `${method().title} drops a group whose rewards are all equal and asks another question in its ` +
      `place (dynamic sampling); it clips at ${low} and ${high}.`
    : `${method().title} keeps every group, also one whose rewards are all equal; it clips at ${low} ` +
      `and ${high}.`);
  drawBars(group, own ? found.tries : null);
  drawTry(found, group, own);
  drawStrip(found, place);
  drawClip(own ? found.tries : null);
}

function drawBars(group, tries) {
  const most = Math.max(DATA.most, ...group.rewards), {rewards} = group;
  const mean = rewards.reduce((sum, one) => sum + one, 0) / rewards.length;
  const advantages = group.advantages[now.method];
  const cells = rewards.map((reward, i) => {
    const advantage = advantages ? advantages[i] : 0;
    const size = Math.min(Math.abs(advantage) / 2.6, 1) * 36;
    const bar = make("i", {class: advantage > 0 ? "better" : "worse", style: `height:${size}%`});
    const edge = advantage > 0 ? `bottom:${50 + size}%` : `top:${50 + size}%`;
    return chooser([
      make("span", {class: "up"}, make("i", {style: `height:${(reward / most) * 96}%`})),
      make("span", {class: "value"}, short(reward)),
      make("span", {class: "both"}, bar,
        make("span", {style: edge}, advantages ? signed(advantage) : "–")),
    ], tries !== null && i === tried(group), () => change({tried: i}),
    {"aria-label": `Try ${i + 1}: reward ${short(reward)}, advantage ${advantages ? signed(advantage) : "none"}`});
  });
  const line = make("div", {class: "mean", style: `top:${96 - (mean / most) * 96 * .96}px`});
  const names = make("div", {class: "names"},
    make("div", {}, make("b", {}, "reward"), make("span", {}, `of ${short(most)}; `),
      `mean ${fixed(mean, 1)}`, make("span", {}, ", dashed")),
    make("div"),
    make("div", {}, make("b", {}, "advantage"), make("span", {}, "up: more probable, down: less")));
  const row = [names, make("div", {class: "cells"}, ...cells, line)];
  if (!group.signal) {
    row.push(make("div", {class: "stamp"}, make("span", {}, advantages
      ? "kept, but all rewards are equal: no signal, nothing to learn"
      : "dropped: all rewards are equal, no signal")));
  }
  get("bars").className = advantages ? "bars" : "bars dropped";
  fill("bars", ...row);
}

/** The try whose words are shown: the best one, unless another was pressed. */
function tried(group) {
  return now.tried ?? group.rewards.indexOf(Math.max(...group.rewards));
}

function drawTry(found, group, own) {
  get("try").hidden = !own;
  if (!own) return;
  const number = tried(group), one = found.tries[number];
  const last = number === found.tries.length - 1;
  const name = shown().truth && last ? "The true answer" : `Try ${number + 1}`;
  const points = Object.entries(one.points).map(([name, value]) =>
    `${name.replaceAll("_", " ")} ${short(value)}`).join(" · ");
  fill("try", make("p", {}, make("b", {}, name), ` (press a bar for another): ${points}. ` +
    `In this run its advantage was ${signed(one.learnt)}.`), make("div", {class: "text", id: "tried"}));
  written("tried", one.text);
}

function drawStrip(found, place) {
  const kept = found.groups.filter(one => one.advantages[now.method]).length;
  const silent = found.groups.filter(one => !one.signal).length;
  fill("striphead", `The step's ${found.groups.length} groups: ${method().title} learns from ` +
    `${kept - (method().drops ? 0 : silent)}` + (silent ? `, ${silent} ` +
      (method().drops ? "dropped" : "kept without signal") : ""));
  fill("silent", ...silent ? [] : nextSilent());
  const most = Math.max(DATA.most, ...found.groups.flatMap(one => one.rewards));
  fill("strip", ...found.groups.map((group, i) => {
    const bars = group.rewards.map(reward => make("i", {style: `height:${(reward / most) * 100}%`}));
    const dropped = !group.advantages[now.method];
    return chooser(bars, i === place, () => change({place: i}),
      {class: dropped ? "dropped" : "", "aria-label": `Group ${i + 1}${dropped ? ", dropped" : ""}`});
  }));
}

/** Where to find a group without signal, if this step has none. */
function nextSilent() {
  const looks = shown().looks, silent = one => shown().groups[one.step].groups.some(g => !g.signal);
  const found = looks.findIndex(silent);
  if (found < 0) return ["No group of a logged step was without signal."];
  return ["All have signal here. ", make("button", {type: "button", class: "link", onclick: () => {
    stop();
    go(found);
  }}, `Step ${looks[found].step} has one without`)];
}

function drawClip(tries) {
  if (!tries || !tries[0].ratio) {
    return fill("clip", make("p", {}, tries ? "This group was in no gradient step." :
      "The log has the ratios of the step's first chosen group alone: press the framed one."));
  }
  const width = 420, height = 170, left = 54, [low, high] = method().clip;
  const all = tries.flatMap(one => one.ratio);
  const [floor, roof] = [Math.min(.7, ...all) - .03, Math.max(1.4, ...all) + .03];
  const y = value => 8 + (1 - (value - floor) / (roof - floor)) * (height - 16);
  const x = i => left + 16 + (i * (width - left - 30)) / Math.max(tries.length - 1, 1);
  const lines = [[high, "6 5"], [1, ""], [low, "6 5"]].flatMap(([value, dashes]) => [
    make("svg:line", {x1: left, x2: width, y1: y(value), y2: y(value), stroke: "currentColor",
      "stroke-width": dashes ? 2 : 1, "stroke-dasharray": dashes, opacity: dashes ? 1 : .4,
      class: dashes ? "limit" : ""}),
    make("svg:text", {x: left - 6, y: y(value) + 4, "text-anchor": "end"}, `× ${fixed(value)}`)]);
  const spans = tries.map((one, i) => make("svg:line", {x1: x(i), x2: x(i), y1: y(one.ratio[0]),
    y2: y(one.ratio[1]) - .5, "stroke-width": 9, "stroke-linecap": "round",
    stroke: one.clipped[now.method] ? "var(--worse)" : "var(--bar)"}));
  const clipped = tries.filter(one => one.clipped[now.method]).length;
  fill("clip", make("svg:svg", {viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `${clipped} of ${tries.length} tries have a clipped token`}, ...spans, ...lines),
  make("p", {class: "small"}, make("b", {}, `${clipped} of ${tries.length} tries`),
    " have a token that is clipped (orange)."));
}

// ---- Scores and failures ------------------------------------------------------------------------

function drawScores() {
  fill("scorebars", ...DATA.bars.map(({title, kind, giou}) =>
    make("div", {class: kind + (title === shown().title ? " now" : "")}, title,
      make("span", {}, make("i", {style: `width:${giou * 82}%`}), fixed(giou)))));
  get("scores").hidden = !DATA.bars.length;
}

function drawFailure() {
  const {failures} = shown(), any = Boolean(failures && failures.shown.length);
  get("fail").disabled = !any;
  fill("failrate", failures
    ? `${shown().title} gets the right foods with an IoU of 0.5 or more in ` +
      `${Math.round((100 * failures.right) / failures.questions)}% of ${failures.questions} test questions.`
    : "This run was not evaluated on the test questions.");
  get("failed").hidden = !any || now.failure < 0;
  if (get("failed").hidden) return;
  const one = failures.shown[now.failure % failures.shown.length];
  const {question, foods} = DATA.questions[one.id];
  plate("failplate", one.id, one);
  fill("failkind", make("b", {}, one.kind), `, IoU ${fixed(one.iou)}`);
  fill("failquestion", `“${question}”`);
  const named = one.named.length ? one.named.join(", ") : "no food";
  fill("failfoods", `Asked for: ${foods.join(", ")}. It named: ${named}.`);
  written("failtext", one.text);
  get("fail").textContent = "Show me another";
}

// ---- What the reader does -----------------------------------------------------------------------

function drawChoices() {
  fill("runs", make("span", {}, "Trained by"), ...DATA.runs.map((run, i) =>
    chooser(run.title, i === now.run, () => choose(i), {title: `${run.name}`})));
  get("problem").hidden = !shown().problem;
  get("problem").textContent = shown().problem;
  for (const id of ["answer", "group", "failure"]) get(id).hidden = Boolean(shown().problem);
  if (shown().problem) return fill("questions");
  fill("questions", make("span", {}, "Question"), ...shown().watched.map((id, i) =>
    chooser([make("img", {src: DATA.photos[DATA.questions[id].photo].uri, alt: ""})],
      i === now.question, () => change({question: i}),
      {class: "picture", "aria-label": DATA.questions[id].question})));
}

function draw() {
  drawChoices();
  drawScores();
  if (shown().problem) return;
  drawAnswer();
  drawTime();
  drawGroup();
  drawFailure();
}

function change(values) {
  Object.assign(now, values);
  draw();
}

function choose(run) {
  const next = DATA.runs[run];
  const look = next.problem ? 0 : Math.min(now.look, next.looks.length - 1);
  const own = DATA.methods.find(one => one.drops === Boolean(next.drops)).name;
  change({run, look, method: own, place: null, tried: null, failure: -1});
  get("fail").textContent = "Show me a failure";
}

/** To a stop of the slider. */
function go(to) {
  const last = shown().looks.length - 1;
  change({look: Math.min(Math.max(to, 0), last), place: null, tried: null});
}

function stop() {
  clearInterval(timer);
  timer = null;
}

function play() {
  if (now.look === shown().looks.length - 1) go(0);
  timer = setInterval(() => {
    if (now.look === shown().looks.length - 1) stop();
    else now.look += 1;
    go(now.look);
  }, 1000 * SECONDS);
  draw();
}

get("play").addEventListener("click", () => {
  if (timer) {
    stop();
    draw();
  } else play();
});
get("slider").addEventListener("input", event => {
  stop();
  go(Number(event.target.value));
});
get("fail").addEventListener("click", () => change({failure: now.failure + 1}));
document.addEventListener("keydown", event => {
  const moves = {ArrowLeft: -1, ArrowRight: 1};
  if (!(event.key in moves) || event.target === get("slider") || shown().problem) return;
  event.preventDefault();
  stop();
  go(now.look + moves[event.key]);
});

get("footer").textContent = `Preset ${DATA.preset}. The words are those of each run's log; SAM2 drew ` +
  "the masks again from them. Arrow keys move the slider.";
choose(Math.max(DATA.runs.findIndex(run => !run.problem), 0));
// Once by itself, unless the reader has asked for stillness.
if (!shown().problem && !matchMedia("(prefers-reduced-motion: reduce)").matches) play();
