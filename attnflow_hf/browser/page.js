// The page: choices for all texts, the texts, and for many of them a search and pages of a few.

const ROWS_OF_A_PAGE = 20;
const DIRECTIONS = [["drew", "what it drew on"], ["went", "where it went"]];

function startPage(host) {
  const source = host.querySelector('script[type="application/json"]').textContent;
  const values = JSON.parse(source);
  const content = make("div", {class: "page"});
  host.attachShadow({mode: "open"}).append(make("style", {}, STYLE), content);
  followScheme(host);
  const texts = values.sheets.map((sheet) => (sheet.attributions.length ? new TextScores(sheet) : null));
  const page = {values, texts, state: firstState(values, texts), views: []};
  page.draw = () => page.views.forEach((view) => view.draw());
  const button = make("button", {type: "button", click: () => save(source, "attnflow.json")}, "Save the data");
  const hint = make("span", {class: "small"}, " as JSON, which attnflow_hf.Page.load reads back");
  renew(content, values.title && make("h1", {}, values.title), values.lead && make("p", {class: "lead"}, values.lead),
    controls(page), ...(texts.length === 1 ? [only(page)] : rows(page)), make("footer", {}, button, hint));
  page.draw();
  host.dataset.ready = "";
}

// Keeps to the scheme of the notebook that the page stands in, if it tells one: it may differ from the system's.
function followScheme(host) {
  const {body} = document;
  const follow = () => {
    const isDark = body.matches(".vscode-dark, .vscode-high-contrast, [data-jp-theme-light=false]");
    const isLight = body.matches(".vscode-light, [data-jp-theme-light=true]");
    host.style.colorScheme = isLight ? "light" : isDark ? "dark" : "light dark";
  };
  follow();
  new MutationObserver(follow).observe(body, {attributes: true, attributeFilter: ["class", "data-jp-theme-light"]});
}

function firstState({sheets, shows_words: words}, texts) {
  const known = texts.find(Boolean);
  const series = known?.shown.series[0][0];
  const start = known && sheets[texts.indexOf(known)].start[1];
  return {series, layer: start ?? known?.layers(series).at(-1), direction: "drew", words};
}

function controls({state, texts, draw}) {
  const known = texts.filter(Boolean);
  const names = [...new Set(known.flatMap((text) => text.shown.series.map(([name]) => name)))];
  const layers = known.flatMap((text) => names.flatMap((name) => text.layers(name)));
  const ends = [Math.min(...layers), Math.max(...layers)];
  const set = (name) => (value) => {
    state[name] = value;
    draw();
  };
  const bar = make("div", {class: "controls", role: "group", "aria-label": "what is shown"});
  const choices = names.map((name) => [name, name]);
  if (names.length > 1) bar.append(segmented("method", "series", choices, state.series, set("series")));
  if (ends[0] < ends[1]) bar.append(slider("layer", ends, state.layer, set("layer")));
  if (known.some((text) => names.some((name) => text.outputs(name).length > 1))) {
    bar.append(segmented("direction", "direction", DIRECTIONS, state.direction, set("direction")));
  }
  if (known.some((text) => text.shown.words)) bar.append(checkbox("whole words", state.words, set("words")));
  return bar;
}

function only(page) {
  page.views = [new SheetView(page, 0)];
  return page.views[0].node;
}

// Many texts: those that match a search, some at a time, made when they are shown.
function rows(page) {
  const {sheets} = page.values;
  const [list, status] = [make("div", {class: "rows"}), make("p", {class: "small", role: "status"})];
  const pager = make("nav", {"aria-label": "pages"});
  const search = make("input", {type: "search", placeholder: "Search the texts", "aria-label": "Search the texts",
    input: () => show(0)});
  const searched = sheets.map((sheet, i) => wordsOf(sheet, page.texts[i]));
  const step = (name, start, isThere) => make("button", {
    type: "button", "aria-label": name, disabled: !isThere, click: () => show(start),
  }, name);
  function show(start) {
    const found = [...sheets.keys()].filter((i) => searched[i].includes(search.value.toLowerCase()));
    const stop = Math.min(start + ROWS_OF_A_PAGE, found.length);
    page.views = found.slice(start, stop).map((i) => new SheetView(page, i));
    list.replaceChildren(...page.views.map((view) => view.node));
    const matching = found.length < sheets.length ? " that match" : "";
    status.textContent = stop ? `${start + 1}\u2013${stop} of ${found.length}${matching}` : "No text matches.";
    renew(pager, step("Previous", start - ROWS_OF_A_PAGE, start > 0), step("Next", stop, stop < found.length));
    page.draw();
  }
  show(0);
  return [make("div", {class: "search"}, search, status, pager), list];
}

function wordsOf({heading, columns, error, prediction}, text) {
  const own = text ? [...text.longest.texts, text.shown.pieces.join(" "), text.longest.prediction?.label] : [];
  return [heading, ...Object.values(columns), error, prediction?.[0], ...own].join("\n").toLowerCase();
}

// One text with all that is told of it: in a page of its own, or as a row among others.
class SheetView {
  constructor(page, index) {
    Object.assign(this, {page, sheet: page.values.sheets[index], text: page.texts[index]});
    this.isRow = page.texts.length > 1;
    this.chosen = {output: this.sheet.start[0], input: null};
    this.head = make("div", {class: "sheet-head"});
    this.node = make("section", {class: "sheet", "aria-label": this.sheet.heading || "text"}, this.head);
    if (this.text) this.fill();
    else renew(this.head, make("b", {}, this.sheet.heading), make("span", {class: "error"}, this.sheet.error));
  }

  fill() {
    this.list = new TokenList(this.text, (token) => this.choose(token));
    this.caption = make("div", {class: "caption"});
    this.notes = make(this.isRow ? "details" : "div", {class: "notes"});
    this.facts = facts(this.sheet, this.text);
    const graph = this.sheet.graph || this.sheet.flows ? new FlowGraph(this.sheet) : null;
    this.graph = graph && new GraphPanel(graph, this.text, () => this.now(), (input) => this.set({input}));
    const below = make("div", {class: "below"}, this.notes, this.isRow ? null : this.facts, this.graph?.node ?? null);
    this.node.append(this.isRow ? "" : this.caption, this.list.node, below);
  }

  set(change) {
    Object.assign(this.chosen, change);
    this.draw();
  }

  choose(token) {
    const {outputs, isDrew} = this.now();
    if (!isDrew || outputs.length === 1) return this.set({input: token});
    const output = this.text.longest.positions[token];
    if (this.text.tokenOf(output) === token && outputs.includes(output)) this.set({output});
  }

  // What is shown now: the choices of the page where this text has them, else the nearest.
  now() {
    const {page: {state}, text, chosen} = this;
    const series = text.of(state.series).length ? state.series : text.shown.series[0][0];
    const [layers, outputs] = [text.layers(series), text.outputs(series)];
    const layer = layers.includes(state.layer) ? state.layer : layers.at(-1);
    const output = outputs.includes(chosen.output) ? chosen.output : outputs.at(-1);
    const isDrew = state.direction === "drew" || outputs.length === 1;
    const row = text.row(series, layer, output);
    return {series, layer, outputs, output, isDrew, row, input: chosen.input ?? strongest(row, text.tokenOf(output))};
  }

  draw() {
    if (!this.text) return;
    const {text, list} = this;
    const now = this.now();
    const {series, layer, output, isDrew, row, input} = now;
    list.build(Boolean(this.page.state.words && isDrew && text.shown.words));
    if (isDrew) list.draw(text.shown.pieces.map((_, i) => row?.scores[i]), row?.errors, text.tokenOf(output));
    else list.draw(text.column(series, layer, input), null, input);
    const scale = make("span", {class: "scale"}, "0", make("i", {class: "ramp"}), brief(list.largest));
    const on = row ? basis(row.member).filter((each) => !series.includes(each)) : [];
    const by = make("span", {class: "by"}, [series, ...on, layer < 0 ? "last layer" : `layer ${layer}`].join(", "));
    const prediction = said(row?.member.prediction ?? named(this.sheet.prediction));
    renew(this.head, this.sheet.heading && make("b", {}, this.sheet.heading), prediction,
      ...(this.isRow ? [this.facts, scale] : []));
    if (!this.isRow) renew(this.caption, this.phrase(now), by, scale);
    this.tellNotes(row?.member.notes ?? []);
    this.graph?.draw();
  }

  phrase({outputs, output, isDrew, input}) {
    const {text} = this;
    const ofOutputs = () => select("output position", outputs.map((each) => [each, text.outputName(each)]), output,
      (chosen) => this.set({output: chosen}));
    const ofInputs = () => select("input token", text.shown.pieces.map((_, i) => [i, text.name(i)]), input,
      (chosen) => this.set({input: chosen}));
    if (!isDrew) return make("span", {}, "Where ", ofInputs(), " went");
    const source = outputs.length > 1 ? ofOutputs() : make("b", {}, text.outputName(output));
    return make("span", {}, "What ", source, " drew on");
  }

  tellNotes(notes) {
    const title = this.isRow && make("summary", {}, notes.length === 1 ? "1 note" : `${notes.length} notes`);
    renew(this.notes, title, ...notes.map((note) => make("p", {class: "small note"}, note)));
    this.notes.hidden = !notes.length;
  }
}

const named = (prediction) => prediction && {label: prediction[0], probability: prediction[1]};

// The token that an output drew most on, but for its own.
function strongest(row, own) {
  const scores = row ? Array.from(row.scores, (score, i) => (i === own ? -1 : score)) : [0];
  return scores.indexOf(Math.max(...scores));
}

function said(prediction) {
  if (!prediction) return null;
  const {label, probability, output} = prediction;
  const number = probability?.toFixed(3) ?? (output === undefined ? "" : brief(output));
  return make("span", {class: "said"}, "prediction ", make("b", {}, label), make("span", {class: "number"}, number));
}

// What other edge weights than attention are told as.
function basis({edge_weights: kind, target}) {
  return kind === "attention" ? [] : [`on ${kind}`, ...(target ? [`target ${target.label}`] : [])];
}

function facts({columns, attributions}, {longest}) {
  const pairs = Object.entries(columns).map(([name, value]) => `${name} ${value}`);
  const settings = [`heads: ${longest.head_reduction}`, `normalized by: ${longest.normalize}`,
    `special tokens: ${longest.special_tokens}`];
  const isShared = attributions.every(({target}) => target?.label === longest.target?.label);
  const told = [...basis(longest).slice(0, isShared ? 2 : 1), ...(pairs.length ? pairs : settings)];
  return make("p", {class: "facts small"}, told.join("  \u00b7  "));
}

for (const host of document.querySelectorAll("div.attnflow-page:not([data-ready])")) startPage(host);
