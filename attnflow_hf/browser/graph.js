// The layer graph: what flows from an output on the right to an input token on the left, and the cut that limits it.

const MOST_ROWS = 40, MOST_EDGES = 300, MOST_PATHS = 6;
const TOP = 30, ROW = 22, LABEL = 12;

class FlowGraph {
  constructor({graph, flows}) {
    this.known = flows;
    this.places = graph ?? flows;
    this.n = this.places.size[1];
    this.numbers = graph && new Numbers(graph.weights);
    // Between an encoder and its decoder the graph has more layers than the model: call them otherwise.
    this.unit = this.places.stages.every((stage, layer) => stage === layer) ? "layer" : "step";
  }

  // The flow of a pair of `inputs`.
  pair(layer, output, token) {
    const stage = this.places.stages[layer];
    const [source, sink] = [this.places.first_output + output, this.places.nodes[token]];
    const found = this.known
      ? this.pairs(layer, output).find((each) => each.sink === sink)
      : maxFlow(this.numbers.slice(0, (stage + 1) * this.n ** 2), this.n, stage, source, sink);
    const paths = strongestPaths(found.edges.slice(0, 5000), source, sink, stage, MOST_PATHS);
    return {...found, source, sink, stage, paths, unit: this.unit};
  }

  pairs(layer, output) {
    return this.known.pairs.filter((each) => each.layer === layer && each.position === output);
  }

  // The inputs whose flow can be shown: of a graph that is not in the page, some.
  inputs(layer, output) {
    if (!this.known) return this.places.nodes.map((_, token) => token);
    return this.pairs(layer, output).map((each) => this.places.nodes.indexOf(each.sink));
  }

  namer(text) {
    const names = new Map(this.places.nodes.map((node, token) => [node, text.shown.pieces[token]]));
    return (node) => names.get(node) ?? (node < this.places.first_output ? "sink" : `position ${node}`);
  }
}

function drawFlow(pair, name, width) {
  const edges = pair.edges.slice(0, MOST_EDGES);
  const rows = rowsOf(edges, pair);
  const drawn = edges.filter(([, query, key]) => rows.has(query) && rows.has(key));
  const label = (node) => clipped(name(node));
  const room = (node) => 7.2 * label(node).length + 14;
  const full = Math.max(width, 300);
  const left = Math.max(44, ...[...rows.keys()].map(room));
  const gap = (full - left - room(pair.source)) / (pair.stage + 1);
  const at = (level, node) => [left + level * gap, TOP + rows.get(node) * ROW];
  const title = `Flow from ${name(pair.source)} to ${name(pair.sink)}`;
  const svg = vector("svg", {role: "img", viewBox: `0 0 ${full} ${TOP + rows.size * ROW}`, "aria-label": title});
  const write = (x, y, text, look) => svg.append(vector("text", {x, y: y + 4, ...look}, text));
  const before = {"text-anchor": "end"};

  const middle = {"text-anchor": "middle"};
  write(left - 10, 10, pair.unit, before);
  for (let level = 0; level <= pair.stage; level++) write(left + (level + 0.5) * gap, 10, level, middle);
  const widest = Math.max(...drawn.map((edge) => edge[4]));
  svg.append(...drawn.map((edge) => drawEdge(edge, at, widest, name, pair.unit)));
  const overlay = svg.appendChild(vector("path", {class: "chosen-path"}));
  for (const node of rows.keys()) {
    write(left - 10, at(0, node)[1], label(node), node === pair.sink ? {...before, class: "end"} : before);
  }
  const [x, y] = at(pair.stage + 1, pair.source);
  write(x + 10, y, label(pair.source), {class: "end"});
  for (const [level, node, side] of nodesOf(drawn)) {
    const [cx, cy] = at(level, node);
    svg.append(vector("circle", {cx, cy, r: gap < 30 ? 2.4 : 3.2, class: side ? "source-side" : "sink-side"}));
  }
  const choose = (nodes) => {
    const points = nodes.flatMap((node, i) => (rows.has(node) ? [at(pair.stage + 1 - i, node)] : []));
    overlay.setAttribute("d", points.length ? `M${points.join("L")}` : "");
  };
  return {svg, choose, drawn, n_rows: rows.size};
}

// The nodes that are drawn, a row each in the order of the text: those that most flows through.
function rowsOf(edges, {source, sink, paths}) {
  const through = new Map([[source, Infinity], [sink, Infinity]]);
  for (const {nodes} of paths.slice(0, 3)) nodes.forEach((node) => through.set(node, Infinity));
  for (const [, query, key, , amount] of edges) {
    for (const node of [query, key]) through.set(node, (through.get(node) ?? 0) + amount);
  }
  const strongest = [...through].sort((one, other) => other[1] - one[1]).slice(0, MOST_ROWS);
  return new Map(strongest.map(([node]) => node).sort((a, b) => a - b).map((node, row) => [node, row]));
}

// Each end of an edge once: its level, its node, and whether it is on the source's side of the cut.
function nodesOf(edges) {
  const ends = edges.flatMap(([layer, query, key, sides]) => [[layer + 1, query, sides >> 1], [layer, key, sides & 1]]);
  return new Map(ends.map((end) => [end.slice(0, 2).join(), end])).values();
}

function drawEdge([layer, query, key, sides, amount], at, widest, name, unit) {
  const [[x0, y0], [x1, y1]] = [at(layer, key), at(layer + 1, query)];
  const middle = (x0 + x1) / 2;
  const isCut = sides === 2;
  const where = `${unit} ${layer}${isCut ? ", in the cut" : ""}`;
  const told = `${where}: ${name(query)} draws ${brief(amount)} from ${name(key)}`;
  const look = {class: isCut ? "edge cut" : "edge", "stroke-width": Math.max(0.75, (9 * amount) / widest)};
  const d = `M${x0} ${y0}C${middle} ${y0} ${middle} ${y1} ${x1} ${y1}`;
  return vector("path", {d, ...look, "data-amount": amount}, vector("title", {}, told));
}

const clipped = (text) => (text.length > LABEL ? `${text.slice(0, LABEL - 1)}\u2026` : text);

function vector(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.map(safe));
  return node;
}

// The panel below a text: which pair, in words what flows and what limits it, the picture, the strongest paths.
class GraphPanel {
  constructor(graph, text, ask, onInput) {
    Object.assign(this, {graph, text, ask, onInput, name: graph.namer(text)});
    this.body = make("div", {class: "graph-body"});
    const summary = make("summary", {}, "Flow through the layers");
    this.node = make("details", {class: "graph", toggle: () => this.draw()}, summary, this.body);
  }

  draw() {
    if (!this.node.open) return;
    const {graph, text, body} = this;
    const {layer, output, input} = this.ask();
    const inputs = typeof output === "number" ? graph.inputs(layer, output) : [];
    if (!inputs.length) return renew(body, make("p", {class: "small"}, this.absent(output)));
    const token = inputs.includes(input) ? input : inputs[0];
    const pair = graph.pair(layer, output, token);
    const picture = drawFlow(pair, this.name, body.clientWidth);
    const choice = select("input token", inputs.map((each) => [each, text.name(each)]), token, this.onInput);
    const from = make("b", {}, text.outputName(output));
    renew(body, make("p", {}, "from ", from, ` above layer ${layer} to `, choice), this.told(pair, picture),
      picture.svg, legend(), pathList(pair, this.name, picture.choose));
  }

  told(pair, {drawn, n_rows}) {
    const value = make("b", {class: "value", "data-value": pair.value}, brief(pair.value));
    const proof = ` can flow, and no more: the cut lets ${brief(pair.capacity)} through.`;
    const few = ` Drawn are the ${drawn.length} strongest of ${pair.n_edges.toLocaleString("en")} edges, between ${n_rows} positions.`;
    const known = ` This page holds the flows to the ${this.graph.known?.n_inputs} inputs that get most.`;
    const more = [drawn.length < pair.n_edges ? few : "", this.graph.known ? known : ""];
    return make("p", {class: "told"}, value, proof, ...more);
  }

  absent(output) {
    if (typeof output !== "number") return "A flow starts at one output position: choose one.";
    const known = new Set(this.graph.known.pairs.map((each) => this.text.outputName(each.position)));
    return `The graph is too large for this page, which holds flows from ${[...known].join(", ")} alone.`;
  }
}

function legend() {
  const mark = (look, told) => make("span", {}, make("i", {class: look}), told);
  return make("p", {class: "key small"}, mark("line", "flow"), mark("line cut", "in the cut"),
    mark("dot", "source\u2019s side"), mark("dot hollow", "sink\u2019s side"));
}

function pathList({paths}, name, choose) {
  if (!paths.length) return make("p", {class: "small"}, "No path leads there.");
  const items = paths.map(({amount, nodes}) => {
    const [on, off] = [() => choose(nodes), () => choose([])];
    const look = {type: "button", class: "path", focus: on, blur: off, pointerenter: on, pointerleave: off};
    return make("li", {}, make("button", look, make("b", {}, brief(amount)), ` ${nodes.map(name).join(" \u2192 ")}`));
  });
  const title = make("p", {class: "legend"}, "Strongest paths, from the output down");
  return make("div", {class: "paths"}, title, make("ol", {}, ...items));
}
