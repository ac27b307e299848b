// Elements and their renewal: a view makes its elements anew each second, and what is on the page is
// changed only where they differ, so that focus, selection and scrolling stay.

const SVG = "http://www.w3.org/2000/svg";

/** An element; attributes that are null or false are left out. */
export function h(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** An element of a picture. */
export function s(tag, attributes, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined));
  return element;
}

/** Makes the children of `parent` what `wanted` are. */
export function renew(parent, ...wanted) {
  const nodes = wanted.flat(3).filter((node) => node !== null && node !== undefined)
    .map((node) => (typeof node === "object" ? node : document.createTextNode(String(node))));
  const keyed = new Map();
  for (const child of parent.children) {
    if (child.dataset?.key !== undefined) keyed.set(child.dataset.key, child);
  }
  let at = parent.firstChild;
  for (const node of nodes) {
    const key = node.dataset?.key;
    const known = key === undefined ? at : keyed.get(key);
    if (known && alike(known, node)) {
      if (known !== at) parent.insertBefore(known, at);
      change(known, node);
      at = known.nextSibling;
    } else {
      parent.insertBefore(node, at);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function alike(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && a.dataset?.key === b.dataset?.key;
}

function change(known, wanted) {
  if (known.nodeType === Node.TEXT_NODE) {
    if (known.data !== wanted.data) known.data = wanted.data;
    return;
  }
  for (const { name } of [...known.attributes]) {
    if (!wanted.hasAttribute(name)) known.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (known.getAttribute(name) !== value) known.setAttribute(name, value);
  }
  renew(known, [...wanted.childNodes]);
}
