// One text: its scores, and the tokens in reading order whose color they are.

class TextScores {
  constructor({attributions, shown}) {
    this.shown = shown;
    this.members = attributions.map((each) => ({...each, numbers: new Numbers(each.scores),
      errors: each.standard_errors && new Numbers(each.standard_errors)}));
    this.longest = this.members.reduce((best, each) => (each.tokens.length > best.tokens.length ? each : best));
    const {parts, positions} = this.longest;
    this.outputTokens = positions.map((_, i) => i).filter((i) => parts[i] !== "encoder");
  }

  of(series) {
    const found = this.shown.series.find(([name]) => name === series);
    return found ? found[1].map((index) => this.members[index]) : [];
  }

  layers(series) {
    const all = this.of(series).flatMap(({layer, numbers}) =>
      layer === "all" ? Array.from({length: numbers.shape[0]}, (_, i) => i) : [layer]);
    return [...new Set(all)].sort((a, b) => a - b);
  }

  outputs(series) {
    const all = this.of(series).flatMap(({output_position: output}) =>
      output === "all" ? this.outputTokens.map((token) => this.longest.positions[token]) : [output]);
    return [...new Set(all)].sort((a, b) => (a === "mean") - (b === "mean") || a - b);
  }

  tokenOf(output) {
    return this.outputTokens.find((token) => this.longest.positions[token] === output) ?? -1;
  }

  // What a token is called in a sentence or a menu: with its position where the text has it twice.
  name(token) {
    const piece = this.shown.pieces[token];
    const isOne = this.shown.pieces.indexOf(piece) === this.shown.pieces.lastIndexOf(piece);
    const part = this.longest.parts[token] === "decoder" ? " (decoder)" : "";
    return piece + (isOne ? "" : ` (${this.longest.positions[token]})`) + part;
  }

  outputName(output) {
    const token = this.tokenOf(output);
    return output === "mean" ? "the mean of all positions" : token < 0 ? `position ${output}` : this.name(token);
  }

  // What an output drew on, one number a token; null where this was not explained.
  row(series, layer, output) {
    const fits = (each) => [layer, "all"].includes(each.layer) && [output, "all"].includes(each.output_position);
    const member = this.of(series).find(fits);
    if (!member) return null;
    const n = member.tokens.length;
    let index = member.layer === "all" ? layer : 0;
    if (member.output_position === "all") {
      index = index * member.numbers.shape.at(-2) + this.outputTokens.indexOf(this.tokenOf(output));
    }
    return {member, scores: member.numbers.slice(index * n, n), errors: member.errors?.slice(index * n, n)};
  }

  // Where an input token went: one number a token, of those that are outputs.
  column(series, layer, token) {
    const scores = new Array(this.longest.tokens.length);
    for (const output of this.outputs(series)) {
      const row = this.row(series, layer, output);
      if (row && this.tokenOf(output) >= 0) scores[this.tokenOf(output)] = row.scores[token];
    }
    return scores;
  }
}

// The tokens as a list that the arrow keys go through. `onChoose` gets the token that was clicked.
class TokenList {
  constructor(text, onChoose) {
    Object.assign(this, {text, onChoose, cells: [], asWords: null, largest: 0});
    this.tip = make("div", {class: "tip", hidden: true, role: "presentation"});
    const hide = () => (this.tip.hidden = true);
    this.node = make("div", {
      class: "tokens",
      pointerover: (event) => this.show(this.cellOf(event)), pointerleave: hide,
      focusin: (event) => this.show(this.cellOf(event)), focusout: hide,
      click: (event) => this.choose(this.cellOf(event)), keydown: (event) => this.press(event),
    });
  }

  // Makes a cell of each token, or of each word.
  build(asWords) {
    if (this.asWords === asWords) return;
    this.asWords = asWords;
    const {pieces, joined, direction, words} = this.text.shown;
    const {special_tokens_mask: special, parts, grid} = this.text.longest;
    const groups = asWords ? words : pieces.map((piece, i) => [piece, [i]]);
    const follows = new Set(asWords ? [] : joined);
    const boxes = new Map();
    this.cells = groups.map(([piece, tokens], i) => {
      const look = {role: "option", tabindex: i ? -1 : 0, "data-cell": i, class: special[tokens[0]] ? "special" : null};
      const node = make("span", look, piece);
      const part = parts[tokens[0]] ?? "";
      if (!boxes.has(part)) boxes.set(part, listbox(part, direction, grid));
      boxes.get(part).append(follows.has(tokens[0]) || i === 0 ? "" : " ", node);
      return {piece, tokens, node};
    });
    this.node.replaceChildren(...boxes.values(), this.tip);
  }

  // Draws one number a token; undefined ones are those of tokens that could not be seen.
  draw(scores, errors, chosen) {
    for (const cell of this.cells) cell.value = cell.tokens.reduce((sum, token) => sum + scores[token], 0);
    const known = this.cells.filter(({value}) => !Number.isNaN(value)).sort((one, other) => other.value - one.value);
    this.largest = known[0]?.value ?? 0;
    const ranks = new Map(known.map((cell, i) => [cell, i + 1]));
    for (const cell of this.cells) {
      const {node, piece, tokens, value} = cell;
      const isKnown = ranks.has(cell);
      node.style.setProperty("--w", isKnown && this.largest > 0 ? value / this.largest : 0);
      node.classList.toggle("unseen", !isKnown);
      node.setAttribute("aria-selected", String(tokens.includes(chosen)));
      node.setAttribute("aria-label", `${piece}, ${isKnown ? brief(value) : "not seen"}`);
      node.dataset.score = isKnown ? value : "";
      const error = errors && tokens.length === 1 ? ` \u00b1 ${brief(errors[tokens[0]])}` : "";
      cell.told = isKnown ? `${brief(value)}${error}  \u00b7  ${ranks.get(cell)} of ${known.length}` : "not seen";
    }
    this.tip.hidden = true;
  }

  cellOf(event) {
    return this.cells[event.target.closest?.("[data-cell]")?.dataset.cell];
  }

  show(cell) {
    if (!cell) return;
    renew(this.tip, make("b", {}, cell.piece), ` ${cell.told}`);
    this.tip.hidden = false;
    const [box, at] = [this.node.getBoundingClientRect(), cell.node.getClientRects()[0]];
    this.tip.style.top = `${at.bottom - box.top + 4}px`;
    this.tip.style.left = `${Math.max(0, Math.min(at.left - box.left, box.width - this.tip.offsetWidth))}px`;
  }

  focus(cell) {
    for (const each of this.cells) each.node.tabIndex = each === cell ? 0 : -1;
    cell.node.focus();
  }

  choose(cell) {
    if (!cell) return;
    this.focus(cell);
    this.onChoose(cell.tokens.at(-1));
    this.show(cell);
  }

  press(event) {
    const cell = this.cellOf(event);
    if (!cell) return;
    const next = stepOf(event.key, this.cells, this.cells.indexOf(cell), this.text.shown.direction);
    if (event.key === "Escape") this.tip.hidden = true;
    if (event.key === "Enter" || event.key === " ") this.choose(cell);
    else if (next !== null) this.focus(this.cells[next]);
    else return;
    event.preventDefault();
  }
}

function listbox(part, direction, grid) {
  const label = `${part ? `${part}: ` : ""}tokens with their scores; arrow keys move, Enter chooses`;
  const node = make("div", {role: "listbox", "aria-label": label, dir: direction, class: grid ? "text grid" : "text"});
  if (part) node.dataset.part = part;
  if (grid) node.style.setProperty("--columns", grid[1]);
  return node;
}

// The cell that a key goes to, or null: along the text, or to the nearest one on the next line.
function stepOf(key, cells, at, direction) {
  const forward = direction === "rtl" ? "ArrowLeft" : "ArrowRight";
  const back = direction === "rtl" ? "ArrowRight" : "ArrowLeft";
  const last = cells.length - 1;
  if (key === forward) return Math.min(at + 1, last);
  if (key === back) return Math.max(at - 1, 0);
  if (key === "Home") return 0;
  if (key === "End") return last;
  if (key !== "ArrowUp" && key !== "ArrowDown") return null;
  const step = key === "ArrowDown" ? 1 : -1;
  const {offsetTop: top, offsetLeft: left, offsetHeight: height} = cells[at].node;
  const far = (i, from) => Math.abs(cells[i].node.offsetTop - from) > height / 2; // special tokens are smaller
  const aside = (i) => Math.abs(cells[i].node.offsetLeft - left);
  let [best, line] = [at, null];
  for (let i = at + step; i >= 0 && i <= last; i += step) {
    if (!far(i, top)) continue;
    if (line !== null && far(i, line)) break;
    if (line === null || aside(i) < aside(best)) best = i;
    line = cells[i].node.offsetTop;
  }
  return best;
}
