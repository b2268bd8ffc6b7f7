// Elements and controls. Text only ever becomes text (`append`, attributes): no HTML is made of it. A sign stands for
// control characters, lone surrogates and marks that turn what follows.

const UNSAFE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069\ud800-\udfff]/gu;
const safe = (child) => (typeof child === "string" ? child.replace(UNSAFE, "\ufffd") : child);

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null).map(safe));
  return node;
}

// Puts new children in place of the old ones, and leaves the focus on the control of the same name.
function renew(node, ...children) {
  const focused = node.getRootNode().activeElement;
  const name = node.contains(focused) ? focused.getAttribute("aria-label") : null;
  node.replaceChildren(...children.filter(Boolean).map(safe));
  if (name) node.querySelector(`[aria-label="${name}"]`)?.focus();
}

// A choice among few: radio buttons in a row, which the arrow keys go through.
function segmented(title, name, choices, chosen, onChoose) {
  const options = choices.map(([value, label]) => {
    const checked = value === chosen;
    const input = make("input", {type: "radio", name, value, checked, change: () => onChoose(value)});
    return make("label", {}, input, make("span", {}, label));
  });
  return make("fieldset", {class: "segmented"}, make("legend", {}, title), ...options);
}

function slider(title, [min, max], value, onChoose) {
  const shown = make("output", {}, String(value));
  const input = make("input", {type: "range", min, max, value, "aria-label": title, input: () => {
    shown.textContent = input.value;
    onChoose(Number(input.value));
  }});
  return make("label", {class: "slider"}, make("span", {class: "legend"}, title), input, shown);
}

function select(title, choices, chosen, onChoose) {
  const options = choices.map(([value, label]) => make("option", {selected: value === chosen}, label));
  const change = () => onChoose(choices[node.selectedIndex][0]);
  const node = make("select", {"aria-label": title, change}, ...options);
  return node;
}

function checkbox(title, checked, onChoose) {
  const input = make("input", {type: "checkbox", checked, change: () => onChoose(input.checked)});
  return make("label", {class: "check"}, input, make("span", {}, title));
}

function save(text, name) {
  const link = make("a", {href: URL.createObjectURL(new Blob([text], {type: "application/json"})), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
