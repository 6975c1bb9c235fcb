// Builds elements.

// An element with attributes, listeners (onclick: …), styles (style: {…}) and children.
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

export const by = (id) => document.getElementById(id);

// A list of names and values; those without a value are left out.
export const factList = (facts) =>
  el("dl", { class: "facts" }, facts.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));

// Sets a text only where it differs, so that nothing is announced or drawn again.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Gives a list these elements and moves as few as possible: what stays keeps its focus and its animation.
export function arrange(list, elements) {
  const wanted = new Set(elements);
  for (const known of [...list.children]) if (!wanted.has(known)) known.remove();
  elements.forEach((element, at) => {
    if (list.children[at] !== element) list.insertBefore(element, list.children[at] || null);
  });
}

// Gives a list an element of each of these values; the element of a value that is the same stays, so that focus stays.
export function arrangeValues(list, values, make) {
  const known = new Map([...list.children].map((element) => [element.valueShown, element]));
  arrange(list, values.map((value) => {
    const key = JSON.stringify(value);
    const element = known.get(key) || make(value);
    element.valueShown = key;
    return element;
  }));
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [name, text] of Object.entries(value)) node.style.setProperty(name, text);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
